package validate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/request"
)

// What tests build transactions from.

func put(key string) *pb.RequestOp {
	return putOp(&pb.PutRequest{Key: []byte(key)})
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return request.Put(r)
}

func del(key, end string) *pb.RequestOp {
	return delOp(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
}

func delOp(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return request.Delete(r)
}

func get(key, end string) *pb.RequestOp {
	return getOp(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
}

func getOp(r *pb.RangeRequest) *pb.RequestOp {
	return request.Range(r)
}

func nested(r *pb.TxnRequest) *pb.RequestOp {
	return request.Txn(r)
}

func then(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }

func otherwise(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Failure: ops} }

func either(success, failure []*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Success: success, Failure: failure}
}

func ops(ops ...*pb.RequestOp) []*pb.RequestOp { return ops }

func compare(key, end string) *pb.Compare {
	return &pb.Compare{Key: []byte(key), RangeEnd: []byte(end)}
}

func when(cmps ...*pb.Compare) *pb.TxnRequest { return &pb.TxnRequest{Compare: cmps} }
