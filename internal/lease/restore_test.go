package lease

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// TestRestoreOutlivesTimers: there are more leases than timers can be started in the shortest TTL. Every timer runs out when so many
// others have been started since; all sentinels are posted nevertheless.
func TestRestoreOutlivesTimers(t *testing.T) {
	const leases, lifetime = 10 * restoredAtOnce, 2 * restoredAtOnce
	w := newWorld(t, 2)
	for id := range int64(leases) {
		for _, m := range w.members {
			put(t, m, string(record.LeaseKey(id)), string(own(1000+id, 60).Encode()))
		}
	}
	var started atomic.Int64
	order := make([]atomic.Int64, 100*leases)
	w.timers.granted = func(g int64) {
		n := started.Add(1)
		order[n].Store(g)
		if n > lifetime {
			if old := order[n-lifetime].Load(); w.coordinator.Get(string(sentinelKey(old-1000))) == nil {
				w.timers.end(old)
			}
		}
	}
	require.NoError(t, w.open(nil).Restore(t.Context(), nil))
	require.Equal(t, leases, w.sentinels())
	require.EqualValues(t, leases, started.Load())
}

// TestRestoreStartsTimersAgain: a timer that has run out before its sentinel was posted does not make the rest fail.
func TestRestoreStartsTimersAgain(t *testing.T) {
	w := newWorld(t, 2)
	for id := range int64(3) {
		put(t, w.members[id%2], string(record.LeaseKey(id)), string(own(1000+id, 60).Encode()))
	}
	var ended atomic.Int64
	w.timers.granted = func(g int64) {
		if ended.Add(1) <= 2 {
			w.timers.end(g)
		}
	}
	require.NoError(t, w.open(nil).Restore(t.Context(), nil))
	require.Equal(t, 3, w.sentinels())
}

// TestRestoreIsGuarded: nothing is posted where life does not hold.
func TestRestoreIsGuarded(t *testing.T) {
	w := newWorld(t, 1)
	put(t, w.members[0], string(record.LeaseKey(7)), string(own(1000, 60).Encode()))
	require.ErrorIs(t, w.open(nil).Restore(t.Context(), []*pb.Compare{request.Absent([]byte(epochKey), nil)}), errEpoch)
	require.Zero(t, w.sentinels())
}
