package commit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/manifest"
)

// Stamps that were asked for before the lane stalled are given up when they come.
func TestLaneStallsWhileItTakes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, oneByOne)
		keys := c.keysOn(0, 3)
		release := c.members[0].hang()
		out := p.later(ctx, put(keys[0], ""))
		open := c.clock.shut()
		waits := p.later(ctx, put(keys[1], ""))
		time.Sleep(1100 * time.Millisecond)
		open()
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))
		require.Equal(t, int64(4), c.clock.next)
		release()
		out.landed(c)
		require.Equal(t, int64(4), waits.landed(c).Stamp)
		p.stop()
		c.settled(p)
	})
}

func TestStampsAreTakenAfterArrival(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		open := c.clock.shut()
		keys := c.keysOn(0, 3)
		first := p.later(ctx, put(keys[0], ""))
		second, third := p.later(ctx, put(keys[1], "")), p.later(ctx, put(keys[2], ""))
		open()
		require.Equal(t, int64(2), first.landed(c).Stamp)
		require.Equal(t, []int64{3, 4}, sorted(second.landed(c).Stamp, third.landed(c).Stamp))
		require.Equal(t, []int64{1, 2}, c.clock.takes, "the add that was under way is not joined, the next one is shared")
		p.stop()
		c.settled(p)
	})
}

// What waits while a flight is out holds no stamps, and travels together then; unless it is a whole batch, which does not wait.
func TestNoStampsAhead(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		const batch = 128/2 - 5
		keys := c.keysOn(0, 200)
		release := c.members[0].hang()
		all := []*pending{p.later(ctx, put(keys[0], ""))}
		for i := range batch - 1 {
			all = append(all, p.later(ctx, put(keys[1+i], "")))
		}
		require.Equal(t, []int64{1}, c.clock.takes)
		release()
		for _, x := range all {
			x.landed(c)
		}
		require.Equal(t, []int64{1, batch - 1}, c.clock.takes)
		require.Equal(t, []int{1, batch - 1}, p.batches)

		release = c.members[0].hang()
		p.batches, c.clock.takes, all = nil, nil, nil
		for i := range 3*batch + 1 {
			all = append(all, p.later(ctx, put(keys[i], "")))
		}
		require.Equal(t, []int64{1, batch, batch}, c.clock.takes, "a second batch flies, a third is ready")
		require.Equal(t, []int{1, batch}, p.batches)
		release()
		for _, x := range all {
			x.landed(c)
		}
		require.Len(t, p.batches, 4)
		p.stop()
		c.settled(p)
	})
}

// Sixteen writers on three members could fly by fives; by stamps ahead, two half batches would take turns.
func TestFlightsAreFull(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.clock.delay = func() time.Duration { return 100 * time.Microsecond }
		p := c.start(nil)
		for _, m := range c.members {
			m.setFault(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				time.Sleep(250 * time.Microsecond)
				return do()
			})
		}
		const writers, each = 16, 50
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					_, err := p.write(ctx, put(fmt.Sprint("key-", rand.IntN(1000)), ""))
					require.NoError(t, err)
				}
			})
		}
		wg.Wait()
		require.Less(t, len(p.batches), writers*each/3)
		p.stop()
		c.settled(p)
	})
}

// Marks of surrendered stamps hold nobody up.
func TestMarksTravelBeside(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		given, err := p.Take(ctx)
		require.NoError(t, err)
		release := c.members[0].hang()
		p.Surrender(given)
		synctest.Wait()
		a, b := p.unknown(ctx, put("a", "")), p.later(ctx, put("b", "")) // neither is lone
		require.Equal(t, 2, c.members[0].mostInAir)
		require.Equal(t, []int{0, 1}, p.batches)
		release()
		a.landed(c)
		b.landed(c)
		p.stop()
		c.settled(p)
	})
}

func sorted(xs ...int64) []int64 {
	slices.Sort(xs)
	return xs
}

func TestClockFails(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		broken := &failing{clock: c.clock, err: rpctypes.ErrGRPCNoLeader}
		p := c.start(nil, func(cfg *commit.Config) { cfg.Clock = broken })
		_, err := p.try(ctx, put("a", ""))
		require.ErrorIs(t, err, rpctypes.ErrGRPCNoLeader)
		_, err = p.try(ctx, remove("a", "b"))
		require.ErrorIs(t, err, rpctypes.ErrGRPCNoLeader)
		broken.err = nil
		_, err = p.try(ctx, put("a", ""))
		require.NoError(t, err)
		p.stop()
		c.settled(p)
	})
}

type failing struct {
	*clock
	err error
}

func (f *failing) Take(ctx context.Context, k int64) (int64, int64, error) {
	if f.err != nil {
		return 0, 0, f.err
	}
	return f.clock.Take(ctx, k)
}
