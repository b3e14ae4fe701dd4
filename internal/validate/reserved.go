package validate

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/record"
)

// ErrReservedKey refuses a request for a single key whose name begins with byte 0x00. Services may return it as it
// is: gRPC sends its status, and FromStatus finds it again on the other side.
var ErrReservedKey error = Error{codes.InvalidArgument, "metaetcd: key is reserved: names that begin with byte 0x00 are metaetcd's own"}

// Error is a refusal that etcd does not know. Like rpctypes.EtcdError it is a comparable value with a gRPC status.
type Error struct {
	code codes.Code
	desc string
}

// Error returns the text, without the gRPC code.
func (e Error) Error() string { return e.desc }

// Code returns the gRPC code, as rpctypes.EtcdError does.
func (e Error) Code() codes.Code { return e.code }

// GRPCStatus is what a gRPC server sends.
func (e Error) GRPCStatus() *status.Status { return status.New(e.code, e.desc) }

// FromStatus returns ErrReservedKey for the status error that gRPC makes of it, and any other error as it is: what
// rpctypes.Error does for etcd's errors. In process there is nothing to translate.
func FromStatus(err error) error {
	var remote interface{ GRPCStatus() *status.Status }
	if errors.As(err, &remote) {
		s := remote.GRPCStatus()
		if e := (Error{s.Code(), s.Message()}); errors.Is(e, ErrReservedKey) {
			return e
		}
	}
	return err
}

// reserved is the rule for the names of one request: only a request without an end names a key.
func reserved(key, end []byte) error {
	if len(end) == 0 && len(key) > 0 && key[0] == record.Reserved {
		return ErrReservedKey
	}
	return nil
}

// checkReserved applies the rule to a valid transaction.
func checkReserved(r *pb.TxnRequest) error {
	for _, c := range r.GetCompare() {
		if err := reserved(c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, branch := range branches(r) {
		for _, op := range branch {
			if err := checkReservedOp(op); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkReservedOp(op *pb.RequestOp) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return reserved(o.RequestRange.Key, o.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return reserved(o.RequestPut.Key, nil)
	case *pb.RequestOp_RequestDeleteRange:
		return reserved(o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
	case *pb.RequestOp_RequestTxn:
		return checkReserved(o.RequestTxn)
	}
	return nil
}

var firstUserKey = []byte(record.FirstUserKey)

// Clip cuts a range of etcd's down to user keys; empty says that no user key can be in it, and then k and e mean
// nothing. The convention of ranges stays: an empty end is the single key, end {0} everything from the key on. What is
// not cut aliases the arguments.
func Clip(key, end []byte) (k, e []byte, empty bool) {
	r := keyrange.Of(key, end).Above(firstUserKey)
	return r.Key, r.End, r.Empty()
}
