package commit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/commit"
)

func TestClose(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 6)
		release := c.members[0].hang()
		first, second := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], ""))
		stamped, queued := p.later(ctx, put(keys[2], "")), p.later(ctx, put(keys[3], ""))
		unready := p.unknown(ctx, put(keys[4], ""))
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		for _, x := range []*pending{stamped, queued, unready} {
			require.True(t, x.over())
			require.ErrorIs(t, x.err, commit.ErrClosed)
		}
		require.False(t, first.over(), "what is in flight is awaited")
		require.False(t, second.over(), "what is in flight is awaited")
		time.Sleep(time.Second / 2)
		release()
		first.landed(c)
		second.landed(c)
		<-closed
		c.settled(p)
		require.Len(t, c.clock.taken, 3)
		_, err := p.try(ctx, put(keys[5], ""))
		require.ErrorIs(t, err, commit.ErrClosed)
		p.Close()
	})
}

// TestCloseWhileStampsAreTaken: an operation that gets its stamp when the pipeline is closed does not use it, in a lane's goroutine or
// in its caller's.
func TestCloseWhileStampsAreTaken(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		open := c.clock.shut()
		taking, queued := p.later(ctx, put(c.keysOn(0, 2)[0], "")), p.later(ctx, put(c.keysOn(0, 2)[1], ""))
		exclusive := func() *pending {
			_, op := c.op(remove("a", "z"))
			return p.doLater(ctx, 1, op)
		}()
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		require.True(t, queued.over())
		require.ErrorIs(t, queued.err, commit.ErrClosed)
		time.Sleep(time.Second / 2)
		require.False(t, taking.over())
		open()
		for _, x := range []*pending{taking, exclusive} {
			require.True(t, x.over())
			require.ErrorIs(t, x.err, commit.ErrClosed)
		}
		<-closed
		c.settled(p)
		require.Len(t, c.clock.taken, 2)
	})
}

func TestCloseWithoutAnAnswer(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 3)
		defer c.members[0].hang()()
		out := p.later(ctx, put(keys[0], ""))
		defer c.members[0].blind()()
		slow := p.unknown(ctx, put(keys[2], ""))
		began := time.Now()
		time.Sleep(1100 * time.Millisecond) // it is parked
		p.Close()
		require.Less(t, time.Since(began), 3*time.Second)
		require.True(t, out.over())
		require.ErrorIs(t, out.err, commit.ErrUnknown)
		require.True(t, slow.over())
		require.ErrorIs(t, slow.err, commit.ErrClosed)
		require.False(t, p.Holds(2))
	})
}

// TestLogEnds: an outcome that one log has not shown is waited for, because another log will, until the pipeline ends.
func TestLogEnds(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		c.members[0].setFault(loseRequest)
		out := p.later(ctx, put("a", ""))
		p.log.Fail(errors.New("gone"))
		time.Sleep(time.Minute)
		require.False(t, out.over())
		p.Close()
		require.True(t, out.over())
		require.ErrorIs(t, out.err, commit.ErrUnknown)
		require.NotErrorIs(t, out.err, commit.ErrClosed)
	})
}

// TestStop: a pipeline that is stopped sends nothing any more, and what waits gets the reason.
func TestStop(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 5)
		open := c.members[0].hang()
		defer c.members[0].blind()()
		flying := []*pending{p.later(ctx, put(keys[0], ""))}
		slow := p.unknown(ctx, put(keys[3], ""))
		queued := []*pending{p.later(ctx, put(keys[1], "")), p.later(ctx, put(keys[2], ""))}
		given, err := p.Take(ctx)
		require.NoError(t, err)
		time.Sleep(1100 * time.Millisecond) // one is parked, and the lane has stalled
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
		require.Empty(t, c.fates(given.Rev), "nothing is sent any more")
	})
}
