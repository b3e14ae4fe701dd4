package lease

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// epochIs holds while a member works in epoch.
func epochIs(epoch int64) []*pb.Compare {
	fence := []byte(record.KeyFence)
	return []*pb.Compare{request.ValueAbove(fence, record.Number(epoch)), request.ValueBelow(fence, record.Number(epoch+1))}
}

func getOp(key, end []byte) *pb.RequestOp {
	return request.Range(&pb.RangeRequest{Key: key, RangeEnd: end})
}

func putOp(key, value []byte, lease int64) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: key, Value: value, Lease: lease})
}

func deleteOp(key []byte) *pb.RequestOp {
	return request.Delete(&pb.DeleteRangeRequest{Key: key})
}

// ifHolds runs ops, in a branch that is taken because something did not hold, if it was not these compares. The answer to it
// has succeeded then.
func ifHolds(cs []*pb.Compare, ops ...*pb.RequestOp) []*pb.RequestOp {
	return []*pb.RequestOp{request.Txn(&pb.TxnRequest{Compare: cs, Success: ops})}
}

// otherwise reads the answer of ifHolds. errEpoch: the compares did not hold.
func otherwise(resp *pb.TxnResponse) (*pb.TxnResponse, error) {
	if t := resp.Responses[0].GetResponseTxn(); t.GetSucceeded() {
		return t, nil
	}
	return nil, errEpoch
}
