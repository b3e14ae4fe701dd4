// Package request builds etcd's protobuf messages: the operations and compares that transactions are made of. It is pure. What
// is built shares the memory of the arguments.
package request

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Range is a read as an operation.
func Range(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// Put is a put as an operation.
func Put(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

// Delete is a delete as an operation.
func Delete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

// Txn is a nested transaction as an operation.
func Txn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// Create is an operation that puts a key if it is absent.
func Create(r *pb.PutRequest) *pb.RequestOp {
	return Txn(&pb.TxnRequest{Compare: []*pb.Compare{Absent(r.Key, nil)}, Success: []*pb.RequestOp{Put(r)}})
}

// ValueIs holds while a key has this value. Like all compares of values, it does not hold for an absent key.
func ValueIs(key, value []byte) *pb.Compare { return compareValue(key, pb.Compare_EQUAL, value) }

// ValueBelow holds while a key's value sorts below this one.
func ValueBelow(key, value []byte) *pb.Compare { return compareValue(key, pb.Compare_LESS, value) }

// ValueAbove holds while a key's value sorts above this one.
func ValueAbove(key, value []byte) *pb.Compare { return compareValue(key, pb.Compare_GREATER, value) }

func compareValue(key []byte, result pb.Compare_CompareResult, value []byte) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: result, TargetUnion: &pb.Compare_Value{Value: value}}
}

// Absent holds while there is no key in a range.
func Absent(key, end []byte) *pb.Compare {
	c := CreateIs(key, 0)
	c.RangeEnd = end
	return c
}

// CreateIs holds while a key has the life that began at a revision; 0: while it is absent.
func CreateIs(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{
		Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

// ModIs holds while a key was last put at a revision; 0: while it is absent.
func ModIs(key []byte, rev int64) *pb.Compare { return compareMod(key, nil, pb.Compare_EQUAL, rev) }

// ModBelow holds while nothing that is in a range was put at or above a revision. Deletes leave no trace.
func ModBelow(key, end []byte, rev int64) *pb.Compare {
	return compareMod(key, end, pb.Compare_LESS, rev)
}

func compareMod(key, end []byte, result pb.Compare_CompareResult, rev int64) *pb.Compare {
	return &pb.Compare{
		Key: key, RangeEnd: end, Target: pb.Compare_MOD, Result: result, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev},
	}
}
