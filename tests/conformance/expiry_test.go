package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestExpiry: leases of short TTLs with random keys, attached, moved and detached; some are kept alive and the others end. What is
// left, and which keys were deleted with which lease, is the same on both sides, whenever it happened.
func TestExpiry(t *testing.T) {
	t.Parallel()
	const leases, expired, shortest = 6, 3, 5
	cli := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t)
	sides := []*store{plainStore(t), metaStore(t, cli)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	id := func(i int) int64 { return int64(8001 + i) }
	seed := rand.Uint64()
	t.Log("seed", seed)
	var results []string
	for _, s := range sides {
		r := rand.New(rand.NewPCG(seed, 0))
		watch := s.watcher.Watch(ctx, "x", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
		<-watch
		for i := range leases {
			_, err := s.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id(i), TTL: 3600})
			require.NoError(t, err)
		}
		// The TTL of those that end begins when all keys are there: another lease with the same keys takes their place.
		attached := map[string]int{}
		for range 60 {
			key := fmt.Sprintf("x%02d", r.IntN(20))
			lease := r.IntN(leases+1) - 1
			var opts []clientv3.OpOption
			if lease >= 0 {
				opts = append(opts, clientv3.WithLease(clientv3.LeaseID(id(lease))))
			}
			_, err := s.kv.Put(ctx, key, "v", opts...)
			require.NoError(t, err)
			attached[key] = lease
		}
		want := 0
		for i := range expired {
			short := id(i) + 100
			_, err := s.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: short, TTL: shortest})
			require.NoError(t, err)
			for key, lease := range attached {
				if lease == i {
					_, err := s.kv.Put(ctx, key, "v", clientv3.WithLease(clientv3.LeaseID(short)))
					require.NoError(t, err)
					want++
				}
			}
		}
		deleted := map[string]int64{}
		for len(deleted) < want {
			resp, open := <-watch
			require.True(t, open)
			require.NoError(t, resp.Err())
			for _, ev := range resp.Events {
				deleted[string(ev.Kv.Key)] = ev.PrevKv.Lease
			}
		}
		results = append(results, s.outcome(t, deleted))
	}
	require.Equal(t, results[0], results[1])
}

// outcome shows what is left of keys and leases, and what was deleted with which lease.
func (s *store) outcome(t *testing.T, deleted map[string]int64) string {
	t.Helper()
	resp, err := s.kv.Get(soon(t), "x", clientv3.WithPrefix())
	require.NoError(t, err)
	out := fmt.Sprintln("deleted", deleted)
	for _, kv := range resp.Kvs {
		out += fmt.Sprintln(string(kv.Key), kv.Version, kv.Lease)
	}
	left := map[int64]bool{}
	require.Eventually(t, func() bool { // the keys go first
		list, err := s.lessor.Leases(soon(t))
		require.NoError(t, err)
		clear(left)
		for _, l := range list.Leases {
			left[int64(l.ID)] = true
		}
		return !left[8101] && !left[8102] && !left[8103]
	}, opTimeout, 10*time.Millisecond)
	return out + fmt.Sprintln("leases", left)
}
