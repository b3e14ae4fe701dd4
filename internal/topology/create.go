package topology

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// maxChunk bounds the records that one transaction creates. Each is a nested transaction of one operation, and etcd's limit on
// operations holds for both levels together: 128 by default, of which this leaves more than half.
const maxChunk = 50

// initialValue is what creation writes into the records of a kind. The clock of a new meta cluster stands at 1, as a
// new etcd's revision does.
func initialValue(kind record.Kind) (value []byte, ok bool) {
	switch kind {
	case record.Fence:
		return record.Pair(0, 0), true
	case record.Clock:
		return record.ClockRecord{Highest: 1}.Value(), true
	case record.Lock:
		return nil, true
	case record.Compacted, record.Slot:
		return record.Number(0), true
	}
	return nil, false
}

// create completes the members that have no topology record yet, in the order of names. With again, another process
// has completed one meanwhile.
func (o *opening) create(ctx context.Context, v *view) (again bool, err error) {
	if o.want.ClusterID == 0 {
		o.want.ClusterID = randomID()
	}
	for i, m := range v.members {
		if m.topo != nil {
			continue
		}
		if again, err = o.createMember(ctx, i); err != nil {
			return false, wire.Name(o.names[i], fmt.Errorf("creating its records: %w", err))
		}
		if again {
			return true, nil
		}
		o.fresh = true
	}
	return false, nil
}

// createMember writes a member's records, and the topology when all others are there.
func (o *opening) createMember(ctx context.Context, i int) (again bool, err error) {
	keys := [][]byte{
		[]byte(record.KeyFence), []byte(record.KeyLock), []byte(record.KeyClock), []byte(record.KeyCompacted),
	}
	for _, slot := range o.ring.SlotsOf(i) {
		keys = append(keys, record.SlotKey(slot))
	}
	for some := range slices.Chunk(keys, o.chunk) {
		var ops []*pb.RequestOp
		for _, key := range some {
			value, _ := initialValue(record.KindOf(key))
			ops = append(ops, createOnly(key, value))
		}
		if again, err = o.createRecords(ctx, i, ops...); again || err != nil {
			return again, err
		}
	}
	topo := o.want
	topo.Member = o.names[i]
	return o.createRecords(ctx, i, put([]byte(record.KeyTopology), topo.Encode()))
}

// createRecords runs operations on a member as long as it has no topology record.
func (o *opening) createRecords(ctx context.Context, i int, ops ...*pb.RequestOp) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	resp, err := o.members[i].KV.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{request.Absent([]byte(record.KeyTopology), nil)},
		Success: ops,
	})
	if err != nil {
		return false, err
	}
	return !resp.Succeeded, nil
}

func createOnly(key, value []byte) *pb.RequestOp {
	return request.Create(&pb.PutRequest{Key: key, Value: value})
}

func put(key, value []byte) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: key, Value: value})
}

// randomID returns a random id that is not 0.
func randomID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
