package lease

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

func valueIs(key, value []byte) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: value}}
}

// absent holds while there is no key in the range; end nil: the key alone.
func absent(key, end []byte) *pb.Compare {
	return &pb.Compare{
		Key: key, RangeEnd: end, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{},
	}
}

// epochIs holds while a member works in epoch.
func epochIs(epoch int64) []*pb.Compare {
	fence := []byte(record.KeyFence)
	return []*pb.Compare{
		{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Value{Value: record.Number(epoch)}},
		{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: record.Number(epoch + 1)}},
	}
}

func getOp(key, end []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, RangeEnd: end}}}
}

func putOp(key, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}
}

func deleteOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

// ifHolds runs ops, in a branch that is taken because something did not hold, if it was not these compares. The answer to it
// has succeeded then.
func ifHolds(cs []*pb.Compare, ops ...*pb.RequestOp) []*pb.RequestOp {
	return []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Compare: cs, Success: ops}}}}
}

// otherwise reads the answer of ifHolds. errEpoch: the compares did not hold.
func otherwise(resp *pb.TxnResponse) (*pb.TxnResponse, error) {
	if t := resp.Responses[0].GetResponseTxn(); t.GetSucceeded() {
		return t, nil
	}
	return nil, errEpoch
}
