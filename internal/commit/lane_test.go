package commit_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/manifest"
)

// oneByOne lets one operation make a flight: a whole batch, for which stamps are taken ahead.
func oneByOne(cfg *commit.Config) { cfg.MaxTxnOps = 11 }

// A member that does not answer gets no stamps, and those that wait for it are marked elsewhere.
func TestStalledLaneHoldsNoStamps(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys, other := c.keysOn(0, 4), c.keysOn(1, 1)[0]
		release := c.members[0].hang()
		first, second := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], ""))
		waits := p.later(ctx, put(keys[2], ""))
		require.Equal(t, int64(5), c.clock.next)
		require.False(t, p.Stalled(0))
		time.Sleep(1100 * time.Millisecond)
		require.True(t, p.Stalled(0))
		require.False(t, p.Stalled(1))
		require.True(t, p.Holds(2), "sent, outcome unknown")
		require.True(t, p.Holds(3), "sent, outcome unknown")
		require.False(t, p.Holds(4))
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(4))
		require.Equal(t, int64(1), int64(len(c.marksOf(1, 4))))
		late := p.later(ctx, put(keys[3], ""))
		time.Sleep(3 * time.Second)
		require.Equal(t, int64(5), c.clock.next, "no stamps for a stalled lane")
		require.Equal(t, int64(5), p.later(ctx, put(other, "")).landed(c).Stamp)
		release()
		require.Equal(t, []int64{2, 3}, sorted(first.landed(c).Stamp, second.landed(c).Stamp))
		require.Equal(t, []int64{6, 7}, sorted(waits.landed(c).Stamp, late.landed(c).Stamp))
		p.stop()
		c.settled(p)
	})
}

// With no member to mark them, stamps wait for the first that recovers.
func TestAllLanesStall(t *testing.T) {
	for _, lost := range []bool{false, true} {
		bubble(t, 2, func(t *testing.T, c *cluster) {
			p := c.start(nil)
			var all []*pending
			var release []func()
			for i, m := range c.members {
				if lost {
					m.setFault(loseRequest)
					release = append(release, func() { m.setFault(nil) })
				} else {
					release = append(release, m.hang())
				}
				keys := c.keysOn(i, 3)
				all = append(all, p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], "")))
			}
			time.Sleep(time.Second / 2)
			for i := range c.members {
				all = append(all, p.later(ctx, put(c.keysOn(i, 3)[2], "")))
			}
			time.Sleep(10 * time.Second)
			require.True(t, p.Stalled(0))
			require.True(t, p.Stalled(1))
			require.Less(t, c.requests(), 1000, "nobody spins")
			release[1]()
			time.Sleep(10 * time.Second)
			require.False(t, p.Stalled(1))
			release[0]()
			for _, x := range all {
				<-x.done
				require.NoError(t, x.err)
			}
			time.Sleep(time.Second)
			c.settled(p)
		})
	}
}

// What the caller's context ends, ends wherever it is; its stamp is marked by another flight.
func TestCallersThatLeave(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 5)
		release := c.members[0].hang()
		head := p.later(ctx, put(keys[0], "head"))
		leaving, leave := context.WithCancel(ctx)
		flying := p.later(leaving, put(keys[1], "flies"))
		stamped := p.later(leaving, put(keys[2], "never"))
		queued := p.later(leaving, put(keys[3], "never"))
		require.Equal(t, 1, p.Queued(0))
		leave()
		for _, x := range []*pending{flying, stamped, queued} {
			require.True(t, x.over())
			require.ErrorIs(t, x.err, context.Canceled)
		}
		release()
		head.landed(c)
		last := p.later(ctx, put(keys[4], "last")).landed(c)
		require.Equal(t, []string{"flies", "head", "last"}, values(c.members[0].puts))
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(4))
		require.Equal(t, int64(5), last.Stamp, "what waited without a caller took no stamp")
		p.stop()
		c.settled(p)
	})
}

// So does what waits for its stamp.
func TestCallersThatLeaveTheClock(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 4)
		release := c.members[0].hang()
		head := p.later(ctx, put(keys[0], "head"))
		open := c.clock.shut()
		leaving, leave := context.WithCancel(ctx)
		taking := p.later(leaving, put(keys[1], "never"))
		queued := p.later(leaving, put(keys[2], "never"))
		require.Equal(t, 1, p.Queued(0))
		leave()
		for _, x := range []*pending{taking, queued} {
			require.True(t, x.over())
			require.ErrorIs(t, x.err, context.Canceled)
		}
		open()
		release()
		head.landed(c)
		last := p.later(ctx, put(keys[3], "last")).landed(c)
		require.Equal(t, []string{"head", "last"}, values(c.members[0].puts))
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))
		require.Equal(t, int64(4), last.Stamp)
		p.stop()
		c.settled(p)
	})
}

func TestCallersThatLeaveAQueue(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		c.members[0].setFault(loseRequest)
		leaving, leave := context.WithCancel(ctx)
		head := p.later(leaving, put("head", ""))
		time.Sleep(time.Second)
		require.True(t, p.Stalled(0))
		for i := range 10_000 {
			member, op := c.op(put(fmt.Sprint(i), ""))
			go func() { _, _ = p.Do(leaving, member, op) }()
			if i%1000 == 999 {
				synctest.Wait()
				leave()
				leaving, leave = context.WithCancel(ctx) //nolint:fatcontext // one after the other, not one in the other
			}
		}
		leave()
		synctest.Wait()
		require.Less(t, p.Queued(0), 3000)
		c.members[0].setFault(nil)
		<-head.done
		_, err := p.write(ctx, put("last", ""))
		require.NoError(t, err)
		require.Less(t, len(c.clock.taken), 10, "who has gone needs no stamp")
		p.stop()
		c.settled(p)
	})
}
