package wire

import (
	"context"
	"errors"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A borrowed client may take less in one message than what is asked for: an interceptor or a service configuration bounds messages for
// all its requests, and no option of a call lifts that. What does not fit into one answer is read in pieces, at one revision.

// overtaken bounds the attempts to read what names no revision in pieces, where compactions come between these.
const overtaken = 3

func unlessOvertaken[T any](named bool, read func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		v, err := read()
		if named || !errors.Is(err, rpctypes.ErrGRPCCompacted) || try == overtaken {
			return v, err
		}
	}
}

// unfit reports whether an answer, or perhaps the request, was too large for a message.
func unfit(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(status.Convert(err).Message(), "larger than max")
}

// rangeInPieces is Range for an answer that does not fit: the keys that the request chooses, and then their values.
func (k *kv) rangeInPieces(ctx context.Context, in *pb.RangeRequest) (*pb.RangeResponse, error) {
	keys := proto.CloneOf(in)
	keys.KeysOnly = true
	resp, err := k.rangeWhole(ctx, keys)
	if err != nil || len(resp.Kvs) == 0 {
		return resp, err
	}
	at := in.Revision
	if at == 0 {
		at = resp.Header.Revision
	}
	values := &pb.TxnRequest{}
	for _, kv := range resp.Kvs {
		values.Success = append(values.Success, rangeOp(&pb.RangeRequest{Key: kv.Key, Revision: at, Serializable: true}))
	}
	var kvs []*mvccpb.KeyValue
	for some := range slices.Chunk(values.Success, pieceKeys) {
		got, err := k.Txn(ctx, &pb.TxnRequest{Success: some})
		if errors.Is(err, rpctypes.ErrGRPCFutureRev) { // that server lags
			got, err = k.Txn(ctx, &pb.TxnRequest{Success: linearizable(some)})
		}
		if err != nil {
			return nil, err
		}
		for _, r := range got.Responses {
			kvs = append(kvs, r.GetResponseRange().GetKvs()...)
		}
	}
	if len(kvs) != len(resp.Kvs) {
		return nil, status.Error(codes.DataLoss, "metaetcd: keys and values of one revision differ")
	}
	resp.Kvs = kvs
	return resp, nil
}

// pieceKeys bounds the values that are asked for at once.
const pieceKeys = 16

// txnInPieces is Txn for a transaction that reads: each half by itself, the second at the revision of the first.
func (k *kv) txnInPieces(ctx context.Context, in *pb.TxnRequest) (*pb.TxnResponse, error) {
	if len(in.Success) == 1 {
		r, err := k.Range(ctx, in.Success[0].GetRequestRange())
		if err != nil {
			return nil, err
		}
		h := r.Header
		r.Header = nil
		return &pb.TxnResponse{Header: h, Succeeded: true, Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}}}, nil
	}
	half := len(in.Success) / 2
	first, err := k.Txn(ctx, &pb.TxnRequest{Success: in.Success[:half]})
	if err != nil {
		return nil, err
	}
	rest := make([]*pb.RequestOp, 0, len(in.Success)-half)
	for _, op := range in.Success[half:] {
		r := proto.CloneOf(op.GetRequestRange())
		if r.Revision == 0 {
			r.Revision = first.Header.Revision
		}
		rest = append(rest, rangeOp(r))
	}
	second, err := k.Txn(ctx, &pb.TxnRequest{Success: rest})
	if errors.Is(err, rpctypes.ErrGRPCFutureRev) {
		second, err = k.Txn(ctx, &pb.TxnRequest{Success: linearizable(rest)})
	}
	if err != nil {
		return nil, err
	}
	first.Responses = append(first.Responses, second.Responses...)
	return first, nil
}

// divisible reports whether a transaction is nothing but ranges, so that it can be read in pieces.
func divisible(in *pb.TxnRequest) bool {
	return len(in.Compare) == 0 && len(in.Success) > 0 &&
		!slices.ContainsFunc(in.Success, func(op *pb.RequestOp) bool { return op.GetRequestRange() == nil })
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// linearizable are these ranges, of servers that do not lag.
func linearizable(ops []*pb.RequestOp) []*pb.RequestOp {
	out := make([]*pb.RequestOp, len(ops))
	for i, op := range ops {
		r := proto.CloneOf(op.GetRequestRange())
		r.Serializable = false
		out[i] = rangeOp(r)
	}
	return out
}
