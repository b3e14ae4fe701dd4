package commit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStop: a pipeline that is stopped sends nothing any more, and what waits gets the reason.
func TestStop(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 5)
		open := c.members[0].hang()
		flying := []*pending{p.later(ctx, put(keys[0], ""))}
		queued := []*pending{p.later(ctx, put(keys[1], "")), p.later(ctx, put(keys[2], ""))}
		slow := func() *pending {
			member, op := c.op(put(keys[3], ""))
			op.Ready = make(chan struct{})
			return p.doLater(ctx, member, op)
		}()
		given, err := p.Take(ctx)
		require.NoError(t, err)
		time.Sleep(1100 * time.Millisecond) // one stands aside, and the lane has stalled
		reason := errors.New("the reason")
		p.Stop(reason)
		for _, op := range append(queued, slow) {
			require.True(t, op.over())
			require.ErrorIs(t, op.err, reason)
		}
		_, err = p.try(ctx, put(keys[4], ""))
		require.ErrorIs(t, err, reason)
		require.False(t, flying[0].over())
		open()
		require.True(t, flying[0].over())
		require.NoError(t, flying[0].err, "it has landed")
		p.Surrender(given)
		p.Close()
		require.Empty(t, c.reasons(given.Rev), "nothing is sent any more")
	})
}
