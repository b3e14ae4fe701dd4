package commit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/record"
)

// What cannot be built for long gives up its stamp meanwhile: it would hold up every reader.
func TestSlowReadsHoldNoStamps(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 4)
		ready := make(chan struct{})
		slow := func(ctx context.Context, key string) *pending {
			member, op := c.op(put(key, key))
			op.Ready = ready
			return p.doLater(ctx, member, op)
		}
		leaving, leave := context.WithCancel(ctx)
		stays, leaves, quick := slow(ctx, keys[0]), slow(leaving, keys[1]), p.later(ctx, put(keys[2], "quick"))
		require.True(t, quick.over())
		require.True(t, p.Holds(2))
		require.Empty(t, c.reasons(2))
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(2))
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(3))
		require.False(t, p.Holds(2))
		again := p.later(ctx, put(keys[0], "before"))
		require.True(t, again.over(), "nor does it hold its key")
		leave()
		require.True(t, leaves.over())
		require.False(t, stays.over())
		close(ready)
		require.Greater(t, stays.landed(c).Stamp, again.Stamp)
		require.Equal(t, []string{"before", keys[0], "quick"}, []string{c.members[0].puts[1].value, c.members[0].puts[2].value, c.members[0].puts[0].value})

		// One whose caller leaves before that is not waited for either.
		ready = make(chan struct{})
		leaving, leave = context.WithCancel(ctx)
		gone := slow(leaving, keys[3])
		held := c.clock.next - 1
		require.True(t, p.Holds(held))
		leave()
		require.True(t, gone.over())
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(held))
		p.stop()
		c.settled(p)
	})
}
