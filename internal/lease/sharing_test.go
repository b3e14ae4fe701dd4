package lease

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

// Leases that are granted at the same time share requests, and each has what it would have alone; of those that want one id, one gets it.
func TestGrantsShareRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		var mu sync.Mutex
		writes := 0
		via := func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if etcdfake.Writes(req) {
				mu.Lock()
				writes++
				mu.Unlock()
			}
			time.Sleep(time.Millisecond)
			return do()
		}
		l := w.open(via, func(c *Config) { c.KV = w.coordinator.Client(via) })
		var wg sync.WaitGroup
		ids := map[int64]int{}
		exist := 0
		for i := range 200 {
			wg.Go(func() {
				wanted := int64(7)
				if i > 1 {
					wanted = 0 // any
				}
				id, ttl, err := l.Grant(t.Context(), wanted, 100)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseExist)
					exist++
					return
				}
				require.EqualValues(t, 100, ttl)
				ids[id]++
			})
		}
		wg.Wait()
		require.Len(t, ids, 200-exist)
		for id := range ids {
			require.Equal(t, 3, w.records(id))
		}
		require.Equal(t, 1, exist)
		require.Equal(t, len(ids), w.sentinels())
		require.Less(t, writes, 4*70, "at most one of the shared requests is made one by one, on each cluster")
		l.Close()
	})
}
