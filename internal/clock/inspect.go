package clock

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Inspection is what a look at a coordinator shows.
type Inspection struct {
	EtcdID  uint64 // the etcd's own cluster id
	Cluster uint64 // the meta cluster whose clock it keeps; 0: none
}

// Inspect reads what a coordinator holds, and fails with a *ForeignCoordinatorError when that is not metaetcd's alone,
// or is the clock of another meta cluster than the given one (0: any).
func Inspect(ctx context.Context, coordinator pb.KVClient, cluster uint64) (Inspection, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	resp, err := coordinator.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{readBelow, readAbove, readRecords}})
	if err != nil {
		return Inspection{}, wire.Name("", err)
	}
	for _, r := range resp.Responses[:2] {
		if kvs := r.GetResponseRange().Kvs; len(kvs) > 0 {
			return Inspection{}, &ForeignCoordinatorError{Key: kvs[0].Key}
		}
	}
	found, err := parseRecords(resp.Responses[2].GetResponseRange().Kvs)
	if err != nil {
		return Inspection{}, err
	}
	if cluster != 0 {
		err = found.check(cluster)
	}
	return Inspection{EtcdID: resp.Header.ClusterId, Cluster: found.cluster()}, err
}

// readBelow and readAbove read a key on either side of what is metaetcd's.
var (
	readBelow = request.Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte(Prefix), KeysOnly: true, Limit: 1})
	readAbove = request.Range(&pb.RangeRequest{Key: []byte(prefixEnd), RangeEnd: []byte{0}, KeysOnly: true, Limit: 1})
)
