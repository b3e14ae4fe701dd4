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
	"github.com/metaetcd/metaetcd/internal/translate"
)

// What was about to fly when the lane stalled keeps no stamp either.
func TestLaneStallsWhileItBuilds(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, func(cfg *commit.Config) { cfg.MaxTxnOps = 11 }) // one operation in a flight
		keys := c.keysOn(0, 2)
		release := c.members[0].hang()
		out := p.later(ctx, beside("key", put(keys[0], "")))
		member, op := c.op(beside("key", put(keys[1], "")))
		op.Keys = [][]byte{[]byte(keys[1])} // it must wait for the slot clock of "key"
		build := op.Build
		op.Build = func(stamp int64, mark int) (*translate.Guarded, error) {
			if stamp == 3 {
				time.Sleep(2 * time.Second)
			}
			return build(stamp, mark)
		}
		waits := p.doLater(ctx, member, op)
		time.Sleep(3 * time.Second)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))
		release()
		out.landed(c)
		require.Equal(t, int64(4), waits.landed(c).Stamp)
		p.stop()
		c.settled(p)
	})
}

// While a flight is out, others gather; a second one goes when it is full. enter checks that they share nothing.
func TestTwoFlightsAtMost(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		m := c.members[0]
		m.setFault(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			time.Sleep(5 * time.Millisecond)
			return do()
		})
		var wg sync.WaitGroup
		for w := range 200 {
			wg.Go(func() {
				for i := range 5 {
					req := put(fmt.Sprintf("key-%d", (7*w+i)%90), "")
					if i == 3 {
						req = beside(fmt.Sprintf("key-%d", w%20), req)
					}
					_, err := p.write(ctx, req)
					require.NoError(t, err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 2, m.mostInAir)
		require.Zero(t, p.refused, "a process never refuses itself")
		require.Less(t, len(p.batches), 200, "operations share flights")
		p.stop()
		c.settled(p)
	})
}

func TestOneKeyLandsInTheOrderOfStamps(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		key := c.keysOn(0, 1)[0]
		var all []*pending
		for range 40 {
			all = append(all, p.later(ctx, put(key, "")))
		}
		for _, x := range all {
			x.landed(c)
		}
		require.Zero(t, p.refused)
		puts := c.members[0].puts
		require.Len(t, puts, 40)
		require.True(t, slices.IsSortedFunc(puts, func(a, b landing) int { return int(a.stamp - b.stamp) }))
		p.stop()
		c.settled(p)
	})
}

// Operations that set the same slot clock cannot travel together; each gets its turn, with the stamp that it has.
func TestSlotClocksAreSharedInTurn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		shared, keys := "shared", c.keysOn(0, 10)
		release := c.members[0].hang()
		head := p.later(ctx, put(keys[9], ""))
		var all []*pending
		for _, key := range keys[:9] {
			member, op := c.op(beside(shared, put(key, "")))
			op.Keys = [][]byte{[]byte(key)} // so that only the slot clock is shared
			all = append(all, p.doLater(ctx, member, op))
		}
		release()
		head.landed(c)
		for _, x := range all {
			x.landed(c)
		}
		require.Zero(t, p.refused)
		require.Len(t, c.clock.taken, 10)
		require.Equal(t, slices.Repeat([]int{1}, 10), p.batches, "none was sent that etcd refuses")
		p.stop()
		c.settled(p)
	})
}

func TestErrorsOfBuild(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		var stamps []int64
		build := func(err error) *commit.Op {
			_, op := c.op(put("a", ""))
			real := op.Build
			op.Build = func(stamp int64, mark int) (*translate.Guarded, error) {
				stamps = append(stamps, stamp)
				if len(stamps) < 3 {
					return nil, err
				}
				return real(stamp, mark)
			}
			return op
		}
		r, err := p.Do(ctx, 0, build(translate.ErrStale))
		require.NoError(t, err)
		require.True(t, r.Outcome.Landed)
		require.Equal(t, []int64{2, 3, 4}, stamps, "an outdated stamp is replaced")
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(2))
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))

		stamps = nil
		_, err = p.Do(ctx, 0, build(errNothing))
		require.ErrorIs(t, err, errNothing)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(stamps[0]))

		big := put("a", "")
		for i := range 125 {
			big = beside(fmt.Sprint(i), big)
		}
		_, err = p.try(ctx, big)
		require.ErrorIs(t, err, rpctypes.ErrGRPCTooManyOps)
		p.stop()
		c.settled(p)
	})
}

// Who needs a key waits for those that came before, whatever else they wait for; and who leaves gives no key free that a
// flight holds.
func TestKeysAreGivenInTurn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 2)
		release := c.members[0].hang()
		flying := p.later(ctx, put(keys[0], "first"))
		leaving, leave := context.WithCancel(ctx)
		gone := p.later(leaving, put(keys[0], "never"))
		second := put(keys[0], "second")
		second.Success = append(second.Success, put(keys[1], "second").Success...)
		both := p.later(ctx, second)
		last := p.later(ctx, put(keys[1], "last"))
		leave()
		require.True(t, gone.over())
		var others []*pending
		for i := range 100 { // a full second flight must not pass them
			others = append(others, p.later(ctx, put(fmt.Sprint(i), "")))
		}
		require.Equal(t, 2, c.members[0].mostInAir)
		require.False(t, last.over())
		release()
		flying.landed(c)
		require.Less(t, both.landed(c).Stamp, last.landed(c).Stamp)
		for _, x := range others {
			x.landed(c)
		}
		p.stop()
		require.Zero(t, p.refused)
		require.Len(t, c.clock.taken, 103, "nobody had to take another stamp, and who has gone took none")
		c.settled(p)
	})
}

// One that sets a slot clock is not passed for ever by others that need it.
func TestSlotClocksAreGivenInTurn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, func(cfg *commit.Config) { cfg.MaxTxnOps = 14 }) // two operations in a flight
		c.members[0].setFault(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			time.Sleep(time.Duration(1+rand.IntN(10)) * time.Millisecond)
			return do()
		})
		var keys []string
		for i := 0; len(keys) < 9; i++ {
			if key := fmt.Sprint(i); c.ring.Slot([]byte(key)) == 0 {
				keys = append(keys, key)
			}
		}
		busy, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, key := range keys[1:] {
			wg.Go(func() {
				for busy.Err() == nil {
					_, err := p.write(ctx, put(key, ""))
					require.NoError(t, err)
				}
			})
		}
		_, err := p.write(ctx, put(keys[0], ""))
		require.NoError(t, err)
		for range 20 {
			began := time.Now()
			_, err := p.write(ctx, beside(keys[0], put("key-1", "")))
			require.NoError(t, err)
			require.Less(t, time.Since(began), 200*time.Millisecond)
		}
		stop()
		wg.Wait()
		require.Zero(t, p.refused)
		p.stop()
		c.settled(p)
	})
}

func TestExclusiveTravelsAlone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 8)
		release := c.members[0].hang()
		var all []*pending
		for i, key := range keys {
			all = append(all, p.later(ctx, put(key, "")))
			if i == 3 {
				all = append(all, p.later(ctx, remove("a", "z")), p.later(ctx, remove("a", "z")))
			}
		}
		release()
		for _, x := range all {
			x.landed(c)
		}
		require.Equal(t, int64(4), all[4].Outcome.Results[0].Deleted, "what was written before it")
		require.Zero(t, all[5].Outcome.Results[0].Deleted)
		require.Zero(t, p.refused)
		m := c.members[0]
		require.Len(t, m.deletes, 4)
		for _, d := range m.deletes {
			require.Equal(t, all[4].Stamp, d.stamp)
		}
		require.Len(t, m.puts, 8)
		p.stop()
		c.settled(p)
	})
}

// Exclusive operations that end before they fly let the next one go.
func TestExclusiveThatNeverFlies(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		open := c.clock.shut()
		leaving, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for i := range 3000 {
			_, op := c.op(remove("a", "z"))
			op.Exclude = func(int64, int64) (*translate.Exclusive, error) { return nil, errNothing }
			wg.Go(func() {
				caller := ctx
				if i%3 == 0 {
					caller = leaving
				}
				_, err := p.Do(caller, 0, op)
				require.Error(t, err)
			})
		}
		synctest.Wait()
		leave()
		last := p.later(ctx, put("a", ""))
		open()
		last.landed(c)
		wg.Wait()
		p.stop()
		c.settled(p)
	})
}

func TestSmallBudgets(t *testing.T) {
	for _, ops := range []int{11, 16, 30, 20_000} {
		bubble(t, 1, func(t *testing.T, c *cluster) {
			p := c.start(nil, func(cfg *commit.Config) { cfg.MaxTxnOps = ops })
			var all []*pending
			for i := range 200 {
				all = append(all, p.later(ctx, put(fmt.Sprint(i), "")))
			}
			for _, x := range all {
				x.landed(c)
			}
			p.stop()
			c.settled(p)
		})
	}
}
