package clock_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

// Callers that leave leave no gap: whoever has stamps marked gets theirs. Those that stay get their own, and an add that everybody has
// left is not sent.
func TestCallersThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		gates, adds := make(chan chan struct{}, 10), 0
		unused, taken := newIssued(), newIssued()
		cfg := w.config(nil)
		held := false
		cfg.Coordinator = w.coordinator.Client(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if held && etcdfake.Writes(req) {
				adds++
				gate := make(chan struct{})
				gates <- gate
				<-gate
			}
			return do()
		})
		cfg.Unused = unused.add
		c := w.openConfig(cfg)
		synctest.Wait()
		held = true
		leaving, leave := context.WithCancel(t.Context())
		take := func(ctx context.Context, k int64) <-chan error {
			result := make(chan error, 1)
			go func() {
				first, epoch, err := c.Take(ctx, k)
				if err == nil {
					taken.add(first, k, epoch)
				}
				result <- err
			}()
			synctest.Wait()
			return result
		}
		sent, left, stays := take(leaving, 2), take(leaving, 3), take(t.Context(), 4)
		leave()
		for _, x := range []<-chan error{sent, left} {
			require.ErrorIs(t, <-x, context.Canceled)
		}
		require.Empty(t, unused.epochs, "their numbers are not known yet")
		close(<-gates)
		synctest.Wait()
		close(<-gates)
		require.NoError(t, <-stays)
		synctest.Wait()
		require.Equal(t, map[int64]map[int64]bool{1: {2: true, 3: true, 4: true, 5: true, 6: true}}, unused.epochs)
		require.Equal(t, map[int64]map[int64]bool{1: {7: true, 8: true, 9: true, 10: true}}, taken.epochs)

		leaving, leave = context.WithCancel(t.Context())
		first, second := take(t.Context(), 1), take(leaving, 1)
		leave()
		require.ErrorIs(t, <-second, context.Canceled)
		close(<-gates)
		require.NoError(t, <-first)
		synctest.Wait()
		require.Equal(t, 3, adds, "nobody wanted the fourth")
		require.Len(t, unused.epochs[1], 5)
	})
}
