package commit_test

import (
	"context"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// who notes for each request that writes a key whether its caller's own goroutine has sent it.
func (m *member) who() (alone *[]bool) {
	alone = &[]bool{}
	m.setFault(func(_ context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
		if len(written(req)) > 0 {
			*alone = append(*alone, strings.Contains(string(debug.Stack()), "(*Pipeline).Do("))
		}
		time.Sleep(time.Millisecond)
		return do()
	})
	return alone
}

// A caller that nobody shares its lane with flies by itself; those that come together share a flight, and so do they the next time.
func TestALoneCallerFliesByItself(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		alone := c.members[0].who()
		keys := c.keysOn(0, 3)
		for range 3 {
			_, err := p.try(ctx, put(keys[0], ""))
			require.NoError(t, err)
			synctest.Wait()
		}
		require.Equal(t, []bool{true, true, true}, *alone)
		*alone = nil
		for range 2 {
			a, b, d := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], "")), p.later(ctx, put(keys[2], ""))
			a.landed(c)
			b.landed(c)
			d.landed(c)
		}
		require.Equal(t, []bool{true, false, false, false}, *alone, "the second time nobody is alone")
		require.Equal(t, []int{1, 1, 1, 1, 2, 1, 2}, p.batches)
		*alone = nil
		for range 2 {
			_, err := p.try(ctx, put(keys[0], ""))
			require.NoError(t, err)
			synctest.Wait() // the answer comes before the lane is free
		}
		require.Equal(t, []bool{false, true}, *alone, "who was in company last does not know yet")
		p.stop()
		c.settled(p)
	})
}

// A lone caller leaves when its context ends. Its request is cancelled, and the lane settles what it has left: from the log if it
// landed, by a fence if not.
func TestALoneCallerLeaves(t *testing.T) {
	for _, landed := range []bool{true, false} {
		bubble(t, 1, func(t *testing.T, c *cluster) {
			p := c.start(nil)
			keys := c.keysOn(0, 2)
			cancelled := false
			c.members[0].setFault(func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				if len(written(req)) == 0 || cancelled {
					return do()
				}
				if landed {
					_, _ = do()
				}
				<-ctx.Done()
				cancelled = true
				return nil, ctx.Err()
			})
			leaving, leave := context.WithCancel(ctx)
			x, began := p.later(leaving, put(keys[0], "left")), time.Now()
			require.False(t, x.over())
			queued := p.later(ctx, put(keys[1], "queued"))
			leave()
			require.True(t, x.over())
			if x.err != nil || !landed { // the log may know the answer as soon as the context has ended
				require.ErrorIs(t, x.err, context.Canceled)
			}
			require.True(t, cancelled)
			queued.landed(c)
			_, fence := c.members[0].fence()
			if landed {
				require.Equal(t, []string{"left", "queued"}, values(c.members[0].puts))
				require.Equal(t, int64(1), fence, "the log said so")
				require.Zero(t, time.Since(began))
			} else {
				require.Equal(t, []string{"queued"}, values(c.members[0].puts))
				require.Equal(t, int64(2), fence)
				require.Equal(t, 20*time.Millisecond, time.Since(began), "the log has one grace")
			}
			p.stop()
			c.settled(p)
		})
	}
}

// A lone caller that leaves before it has a stamp leaves nothing behind.
func TestALoneCallerLeavesTheClock(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 3)
		open := c.clock.shut()
		leaving, leave := context.WithCancel(ctx)
		x, queued := p.later(leaving, put(keys[0], "left")), p.later(ctx, put(keys[1], "queued"))
		leave()
		require.True(t, x.over())
		require.ErrorIs(t, x.err, context.Canceled)
		require.False(t, queued.over())
		open()
		require.Equal(t, int64(2), queued.landed(c).Stamp)
		_, err := p.try(ctx, put(keys[2], ""))
		require.NoError(t, err)
		p.stop()
		c.settled(p)
	})
}

// What a caller's context carries is for its own servers.
func TestALoneCallersContextStaysHere(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		type name struct{}
		var seen []any
		c.members[0].setFault(func(ctx context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			seen = append(seen, ctx.Value(name{}))
			return do()
		})
		_, err := p.try(context.WithValue(ctx, name{}, "value"), put("a", ""))
		require.NoError(t, err)
		require.Equal(t, []any{nil}, seen)
		p.stop()
		c.settled(p)
	})
}

// Others that come while a caller flies alone wait for its landing, unless they are a whole batch; none of them passes it on its key.
func TestALoneCallerIsNotPassed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 3)
		open := c.clock.shut()
		first := p.later(ctx, put(keys[0], "first"))
		second, other := p.later(ctx, put(keys[0], "second")), p.later(ctx, put(keys[1], "other"))
		release := c.members[0].hang()
		open()
		require.False(t, second.over())
		require.Equal(t, 1, c.members[0].mostInAir)
		release()
		a, b := first.landed(c), second.landed(c)
		require.Less(t, a.Stamp, b.Stamp)
		other.landed(c)
		require.Zero(t, p.refused)
		p.stop()
		c.settled(p)
	})
}

// A lone operation that is refused, or that takes another stamp, goes the usual way.
func TestALoneOperationThatIsOutdated(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		_, op := c.op(put("a", ""))
		build, stamps := op.Build, []int64(nil)
		op.Build = func(stamp int64, mark int) (*translate.Guarded, error) {
			if stamps = append(stamps, stamp); len(stamps) == 1 {
				return nil, translate.ErrStale
			}
			return build(stamp, mark)
		}
		r, err := p.Do(ctx, 0, op)
		require.NoError(t, err)
		require.Equal(t, int64(3), r.Stamp)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(2))
		p.stop()
		c.settled(p)
	})
}

// What has claimed its lane when the clock hangs and the lane stalls takes another stamp when there are any.
func TestALoneCallerOfAStalledLane(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 2)
		open := c.clock.shut()
		lone := p.later(ctx, put(keys[0], "lone"))
		c.clock.mu.Lock()
		c.clock.gate = nil // the next one is answered
		c.clock.mu.Unlock()
		release := c.members[0].hang()
		flying := p.later(ctx, put(keys[1], "flying"))
		time.Sleep(1100 * time.Millisecond)
		require.True(t, p.Stalled(0))
		open()
		require.False(t, lone.over())
		require.Equal(t, []manifest.Kind(nil), c.fates(3), "no lane works that could mark it")
		release()
		require.Equal(t, int64(2), flying.landed(c).Stamp)
		require.Equal(t, int64(4), lone.landed(c).Stamp)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))
		p.stop()
		c.settled(p)
	})
}
