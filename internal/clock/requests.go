package clock

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func put(key string, value []byte) *pb.RequestOp {
	return putOp(&pb.PutRequest{Key: []byte(key), Value: value})
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func valueIs(key string, value []byte) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Value{Value: value},
	}
}

func absent(key string) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0},
	}
}

// readDigits and readRecords end the clock's transactions. They are shared by all requests.
var (
	readDigits = rangeOp(&pb.RangeRequest{
		Key: []byte(digitPrefix), RangeEnd: []byte(digitEnd), KeysOnly: true,
	})
	readRecords = rangeOp(&pb.RangeRequest{Key: []byte(clockPrefix), RangeEnd: []byte(clockEnd)})
)
