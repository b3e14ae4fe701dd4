package mergedlog

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// TestForgotten: what a compacted member still tells of a stamp that was sent before.
func TestForgotten(t *testing.T) {
	const epoch, stamp = 1, 8
	const key = "k0/0"
	slot := record.SlotKey(worldSlot([]byte(key)))
	puts := func(keys ...[]byte) *pb.TxnRequest {
		txn := &pb.TxnRequest{}
		for _, k := range keys {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k}}})
		}
		return txn
	}
	kv := func(key, value []byte) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: key, Value: value, ModRevision: 7}
	}
	fence := func(epoch, f int64) *mvccpb.KeyValue { return kv([]byte(record.KeyFence), record.Pair(epoch, f)) }
	clock := func(n int64) *mvccpb.KeyValue {
		return kv([]byte(record.KeyClock), record.ClockRecord{Epoch: epoch, Highest: n}.Value())
	}
	slotAt := func(n int64) *mvccpb.KeyValue { return kv(slot, record.Number(n)) }
	user := func(stamp int64) *mvccpb.KeyValue {
		return kv([]byte(key), record.Header{Stamp: stamp, Create: stamp}.Value(nil))
	}
	note := func(stamp int64, kind manifest.Kind) *mvccpb.KeyValue {
		return kv(record.NestedKey(1), manifest.Encode(manifest.Of(kind, stamp)...))
	}
	id := record.NewTxnID()
	landed, dead := Outcome{Landed, manifest.Landed, 7}, Outcome{Kind: Dead, Rev: 30}
	for name, c := range map[string]struct {
		txn  *pb.TxnRequest
		kvs  []*mvccpb.KeyValue
		want Outcome // none: forgotten
	}{
		"the clock has not come to it":       {nil, []*mvccpb.KeyValue{fence(epoch, 5), clock(stamp - 1)}, dead},
		"the clock is at it":                 {nil, []*mvccpb.KeyValue{fence(epoch, 5), clock(stamp)}, Outcome{}},
		"the key shows it":                   {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), user(stamp)}, landed},
		"the key shows a lower one":          {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), user(stamp - 1)}, dead},
		"the key shows a higher one":         {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), user(stamp + 1)}, Outcome{}},
		"no key, and nobody deleted it":      {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), slotAt(stamp - 1)}, dead},
		"no key, and its slot was passed":    {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), slotAt(stamp + 1)}, Outcome{}},
		"no key, and its slot is locked":     {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), kv(slot, record.Holder{}.Value())}, Outcome{}},
		"no key, and a range was deleted":    {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, stamp), clock(9), slotAt(stamp - 1)}, Outcome{}},
		"the slot shows it":                  {puts(slot), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), slotAt(stamp)}, landed},
		"the slot shows a lower one":         {puts(slot), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), slotAt(stamp - 1)}, dead},
		"the slot shows a higher one":        {puts(slot), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), slotAt(stamp + 1)}, Outcome{}},
		"a manifest refuses it":              {nil, []*mvccpb.KeyValue{fence(epoch, 5), clock(9), note(stamp, manifest.Fenced)}, Outcome{Refused, manifest.Fenced, 7}},
		"a manifest has it among others":     {nil, []*mvccpb.KeyValue{fence(epoch, 5), clock(9), kv([]byte(record.KeyManifest), manifest.Encode(manifest.Of(manifest.Pinned, 7, stamp)...))}, Outcome{Refused, manifest.Pinned, 7}},
		"a manifest says that it landed":     {nil, []*mvccpb.KeyValue{fence(epoch, 5), clock(9), note(stamp, manifest.Landed)}, landed},
		"a manifest says more than the key":  {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), user(stamp), note(stamp, manifest.Exclusive)}, Outcome{Landed, manifest.Exclusive, 7}},
		"it is decided":                      {puts(record.TxnKey(id)), []*mvccpb.KeyValue{fence(epoch, 5), clock(9), kv(record.TxnKey(id), record.Decision{Stamp: stamp}.Value())}, landed},
		"a new epoch may have used it again": {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch+1, 5), clock(9), user(stamp)}, Outcome{}},
		"a new epoch, which it has not seen": {puts([]byte(key)), []*mvccpb.KeyValue{fence(epoch+1, 5), clock(stamp - 1)}, Outcome{Kind: Dead, Rev: 20}},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDoubts(1, worldSlot)
			d.Reached(0, 5)
			d.Track(0, epoch, Sent{Stamp: stamp, Txn: c.txn})
			log := New(Config{Members: 1, SlotOf: worldSlot, Doubts: d})
			log.Open(0, MemberState{Rev: 30, Epoch: epoch, Fence: 100})
			ctx, cancel := bounded()
			defer cancel()
			u, missing := d.Unseen(0)
			require.True(t, missing)
			require.Equal(t, []int64{5, 30}, []int64{u.After, u.UpTo})
			d.At(0, 20, c.kvs)
			for rev := int64(21); rev <= 30; rev++ {
				d.Show(0, MemberRevision{Rev: rev})
			}
			out, err := d.Outcome(ctx, 0, epoch, stamp)
			if c.want.Kind == 0 {
				require.ErrorIs(t, err, ErrForgotten)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, out)
		})
	}
}
