package commit_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// What cannot be built for long gives up its stamp meanwhile: it would hold up every reader.
func TestSlowReadsHoldNoStamps(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 4)
		see := c.members[0].blind()
		leaving, leave := context.WithCancel(ctx)
		stays, leaves := p.unknown(ctx, put(keys[0], keys[0])), p.unknown(leaving, put(keys[1], keys[1]))
		quick := p.later(ctx, put(keys[2], "quick"))
		require.True(t, quick.over())
		require.True(t, p.Holds(2))
		require.Empty(t, c.fates(2))
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(2))
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3))
		require.False(t, p.Holds(2))
		again := p.later(ctx, put(keys[0], "before"))
		require.True(t, again.over(), "nor does it hold its key")
		leave()
		require.True(t, leaves.over())
		require.False(t, stays.over())
		see()
		require.Greater(t, stays.landed(c).Stamp, again.Stamp)
		require.Equal(t, []string{"before", keys[0], "quick"}, []string{c.members[0].puts[1].value, c.members[0].puts[2].value, c.members[0].puts[0].value})

		// One whose caller leaves before that is not waited for either.
		see = c.members[0].blind()
		leaving, leave = context.WithCancel(ctx)
		gone := p.unknown(leaving, put(keys[3], ""))
		held := c.clock.next - 1
		require.True(t, p.Holds(held))
		leave()
		require.True(t, gone.over())
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(held))
		see()
		p.stop()
		c.settled(p)
	})
}

// What the operations of a batch lack is read at once, beside their stamps, and in several requests only if there is no other way.
func TestABatchIsLookedUpAtOnce(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		var asked []int
		p := c.start(nil, func(cfg *commit.Config) {
			states := cfg.Members[0].States
			cfg.Members[0].States = func(ctx context.Context, keys [][]byte) (int64, []translate.State, error) {
				mu.Lock()
				asked = append(asked, len(keys))
				mu.Unlock()
				return states(ctx, keys)
			}
		})
		release := c.members[0].hang()
		head := p.later(ctx, put("head", ""))
		var all []*pending
		for i := range 58 { // less than a batch
			req := put(string(rune('A'+i)), "")
			for j := range 1 + i%4 {
				req = beside(string(rune('A'+i))+string(rune('0'+j)), req)
			}
			if i%2 == 0 {
				all = append(all, p.unknown(ctx, req))
			} else {
				all = append(all, p.later(ctx, req))
			}
		}
		require.Empty(t, asked, "nothing is read for what has to wait")
		open := c.clock.shut()
		release()
		head.landed(c)
		synctest.Wait()
		require.Equal(t, []int{86}, asked, "beside the stamps")
		open()
		for _, x := range all {
			x.landed(c)
		}
		require.Zero(t, p.refused)

		asked, all = nil, nil
		release = c.members[0].hang()
		head = p.later(ctx, put("head", ""))
		for i := range 58 {
			req := put(string(rune('A'+i)), "")
			for j := range 4 {
				req = beside(string(rune('A'+i))+string(rune('0'+j)), req)
			}
			all = append(all, p.unknown(ctx, req))
		}
		release()
		head.landed(c)
		for _, x := range all {
			x.landed(c)
		}
		require.ElementsMatch(t, []int{125, 125, 40}, asked)
		p.stop()
		c.settled(p)
	})
}

// A lookup that fails holds nobody up: what stays unknown is for the guards.
func TestALookupFails(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		c.members[0].setLooks(loseReply)
		known := false
		member, op := c.lacks(put("a", ""))
		op.Know = func(int64, []translate.State) { known = true }
		r, err := p.Do(ctx, member, op)
		require.NoError(t, err)
		require.True(t, r.Outcome.Landed)
		require.False(t, known)
		p.stop()
		c.settled(p)
	})
}
