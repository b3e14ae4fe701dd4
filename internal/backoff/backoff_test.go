package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/backoff"
)

func TestWaitDoublesUpToABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff.Backoff
		for _, most := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 320, 320} {
			most *= time.Millisecond
			start := time.Now()
			require.True(t, b.Wait(t.Context()))
			require.GreaterOrEqual(t, time.Since(start), most/2)
			require.Less(t, time.Since(start), most)
		}
		b.Reset()
		start := time.Now()
		require.True(t, b.Wait(t.Context()))
		require.Less(t, time.Since(start), 5*time.Millisecond)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b backoff.Backoff
	require.False(t, b.Wait(ctx))
}
