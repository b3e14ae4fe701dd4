package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReapWaitsForKeysThatMove: while others write the keys of a lease, so that none can be deleted, it is not tried all the time.
func TestReapWaitsForKeysThatMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		tries, begun := 0, time.Now()
		l := w.open(nil, func(cfg *Config) {
			cfg.Delete = func(_ context.Context, keys []Attached) (int64, error) {
				if tries++; tries < 1000 && time.Since(begun) < 3*time.Second {
					return 0, nil
				}
				return 1, w.remove(keys)
			}
		})
		_, _, err := l.Grant(t.Context(), 7, 60)
		require.NoError(t, err)
		w.attach(1, "k", 7)
		rev, err := l.Revoke(t.Context(), 7)
		require.NoError(t, err)
		require.EqualValues(t, 1, rev)
		require.Zero(t, w.records(7))
		require.Less(t, tries, 50)
	})
}

// TestTimeToLiveOfALeaseThatHasEnded: it is answered when none of its keys is left, and until the coordinator has come to a timer that has
// run out, it is not asked all the time.
func TestTimeToLiveOfALeaseThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		l := w.open(nil)
		_, _, err := l.Grant(t.Context(), 7, 60)
		require.NoError(t, err)
		w.attach(1, "k", 7)
		left, ttl, keys, err := l.TimeToLive(t.Context(), 7, true)
		require.NoError(t, err)
		require.Equal(t, [][]byte{[]byte("k")}, keys)
		require.EqualValues(t, [2]int64{60, 60}, [2]int64{left, ttl})

		asked, begun := 0, time.Now()
		w.timers.left = func(id int64) int64 {
			if asked++; asked >= 1000 || time.Since(begun) > 3*time.Second {
				go w.timers.end(id)
			}
			return -1
		}
		left, _, _, err = l.TimeToLive(t.Context(), 7, true)
		require.NoError(t, err)
		require.EqualValues(t, -1, left)
		require.Less(t, asked, 50)
		require.Empty(t, w.members[1].Get("k"))
		require.Zero(t, w.records(7))
	})
}

// TestReapsAreCounted: a lease that has ended is counted by who removed what was left of it, and by nobody else.
func TestReapsAreCounted(t *testing.T) {
	w := newWorld(t, 2)
	counts := [2]int{}
	var ls [2]*Lessor
	for i := range ls {
		ls[i] = w.open(nil, func(cfg *Config) { cfg.OnReaped = func() { counts[i]++ } })
	}
	_, _, err := ls[0].Grant(t.Context(), 7, 60)
	require.NoError(t, err)
	rec, ok := ls[0].Book().Living(7)
	require.True(t, ok)
	_, err = ls[1].Revoke(t.Context(), 7)
	require.NoError(t, err)
	_, err = ls[0].reap(t.Context(), grant{7, rec.Grant})
	require.NoError(t, err)
	require.Equal(t, [2]int{0, 1}, counts)
}
