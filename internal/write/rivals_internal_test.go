package write

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRivals: who has lost waits, the longer the more often, within bounds; who has landed soon does not; elsewhere nobody does.
func TestRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rivals{slots: map[int]int{}}
		longest := func(slots ...int) (most time.Duration) {
			for range 1000 {
				began := time.Now()
				require.NoError(t, r.await(t.Context(), slots))
				most = max(most, time.Since(began))
			}
			return most
		}
		for range 100 {
			r.landed(nil, time.Millisecond)
		}
		require.Zero(t, longest(1, 2))
		r.lost([]int{1}, time.Millisecond)
		require.InDelta(t, time.Millisecond, longest(1, 2), float64(100*time.Microsecond))
		require.Zero(t, longest(2))
		require.Zero(t, longest())
		for range 10 {
			r.lost([]int{1, 2}, time.Millisecond)
		}
		require.InDelta(t, mostLandings*time.Millisecond, longest(2), float64(2*time.Millisecond))
		for range 100 {
			r.lost([]int{1}, time.Hour)
		}
		require.InDelta(t, longestWait, longest(1), float64(longestWait/10))
		ctx, leave := context.WithCancel(t.Context())
		leave()
		require.ErrorIs(t, r.await(ctx, []int{1}), context.Canceled)
		for range 5 {
			r.landed([]int{1, 2}, time.Hour)
		}
		require.Zero(t, longest(1, 2))
		require.Empty(t, r.slots)
	})
}
