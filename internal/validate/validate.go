// Package validate refuses, before anything is sent, what an etcd server would refuse before it runs a request: with
// the same errors, found in the same order. Etcd's accidents count as behaviour (see overlap.go).
//
// After etcd's checks comes one rule of metaetcd's own: a request for a single key must not name a reserved key.
// Ranges may include reserved names; Clip takes them out.
//
// A nil message counts as an empty one, which is what it would be on the wire.
package validate

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// MaxTxnOps is etcd's default limit of the operations in one list of a transaction, as users meet it whatever the members' is.
const MaxTxnOps = 128

// What etcd answers to streams that it cannot serve in order; rpctypes has no names for these.
var (
	errStreamOrder   = status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	errStreamFilters = status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
)

// Range checks a request of KV.Range.
func Range(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	return reserved(r.GetKey(), r.GetRangeEnd())
}

// RangeStream checks a request of KV.RangeStream.
func RangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if r.GetSortOrder() != pb.RangeRequest_NONE &&
		(r.GetSortTarget() != pb.RangeRequest_KEY || r.GetSortOrder() != pb.RangeRequest_ASCEND) {
		return errStreamOrder
	}
	if r.GetMinModRevision() != 0 || r.GetMaxModRevision() != 0 ||
		r.GetMinCreateRevision() != 0 || r.GetMaxCreateRevision() != 0 {
		return errStreamFilters
	}
	return reserved(r.GetKey(), r.GetRangeEnd())
}

// Put checks a request of KV.Put.
func Put(r *pb.PutRequest) error {
	if err := checkPut(r); err != nil {
		return err
	}
	return reserved(r.GetKey(), nil)
}

// DeleteRange checks a request of KV.DeleteRange.
func DeleteRange(r *pb.DeleteRangeRequest) error {
	if err := checkDelete(r); err != nil {
		return err
	}
	return reserved(r.GetKey(), r.GetRangeEnd())
}

// Txn checks a request of KV.Txn. Each list of a transaction may have maxOps entries; a nested transaction gets what
// the longest list around it leaves.
func Txn(r *pb.TxnRequest, maxOps int) error {
	if err := checkTxn(r, maxOps); err != nil {
		return err
	}
	if err := checkOverlap(r); err != nil {
		return err
	}
	return checkReserved(r)
}

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.GetSortOrder())]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.GetSortTarget())]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.GetIgnoreValue() && len(r.GetValue()) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.GetIgnoreLease() && r.GetLease() != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

func checkTxn(r *pb.TxnRequest, maxOps int) error {
	longest := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if longest > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range branches(r) {
		for _, op := range branch {
			if err := checkOp(op, maxOps-longest); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, maxOps)
	}
	return rpctypes.ErrGRPCKeyNotFound
}

// branches returns the lists of operations of a transaction, in the order in which they are checked.
func branches(r *pb.TxnRequest) [2][]*pb.RequestOp {
	return [2][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()}
}
