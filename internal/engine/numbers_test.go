package engine_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// renumbered is a cluster whose members have other numbers than places, and whose second member keeps the compacted revision.
func renumbered(t *testing.T) *fakemeta.Cluster {
	c := fakemeta.New(t, 3)
	c.Open().Close()
	for _, m := range c.Members {
		topo, err := record.ParseTopology(m.Get(record.KeyTopology))
		require.NoError(t, err)
		for i, number := range []int{9, 5, 2} {
			topo.Members[i].Number = number
		}
		topo.Compacted = 5
		_, err = m.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(record.KeyTopology), Value: topo.Encode()})
		require.NoError(t, err)
	}
	return c
}

func putOf(key, value string) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

// Members go by their numbers in locks, and parts find them by these.
func TestMembersGoByTheirNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := renumbered(t)
		a, b := c.Open(), c.Open()
		var mu sync.Mutex
		holders := map[int]bool{}
		for i := range c.Members {
			c.Members[i].Watch(func(_ int64, evs []*mvccpb.Event) {
				mu.Lock()
				defer mu.Unlock()
				for _, ev := range evs {
					if h, held, _ := record.ParseHolder(ev.Kv.Value); held && record.KindOf(ev.Kv.Key) == record.Slot {
						holders[h.Primary] = true
					}
				}
			})
		}
		req := &pb.TxnRequest{Success: []*pb.RequestOp{putOf(c.Key(1, 0), "x"), putOf(c.Key(2, 0), "x")}}
		_, err := a.Writes.Do(t.Context(), req)
		require.NoError(t, err)
		mu.Lock()
		require.Equal(t, map[int]bool{5: true}, holders)
		mu.Unlock()

		for member := range 3 {
			got, err := b.Reads.Range(t.Context(), &pb.RangeRequest{Key: []byte(c.Key(member, 0))})
			require.NoError(t, err)
			require.Equal(t, int64(min(member, 1)), got.Count)
			for _, kv := range got.Kvs {
				require.Equal(t, "x", string(kv.Value))
			}
		}
	})
}

// The compacted revision is kept where the topology says, and followed there.
func TestCompactedIsKeptWhereTheTopologySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := renumbered(t)
		a, b := c.Open(), c.Open()
		for range 5 {
			_, err := a.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{putOf(c.Key(0, 0), "v")}})
			require.NoError(t, err)
		}
		_, err := a.Compact(t.Context(), &pb.CompactionRequest{Revision: 4})
		require.NoError(t, err)
		for i, want := range []int64{0, 4, 0} {
			require.Equal(t, record.Number(want), c.Members[i].Get(record.KeyCompacted))
		}
		time.Sleep(time.Second)
		require.Equal(t, int64(4), b.Feeds.Compacted.Load(), "followed")
		require.Equal(t, int64(4), c.Open().Feeds.Compacted.Load(), "read when a process opens")
	})
}
