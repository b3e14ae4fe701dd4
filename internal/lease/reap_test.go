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
