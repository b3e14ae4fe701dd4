package feed

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Each member's records come before its stream, and all streams before the fences and what was decided.
func TestOrderOfOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stamp := w.write(0, "k")
		f := w.open()
		require.GreaterOrEqual(t, f.Log.Closed(), stamp, "what was acknowledged before is covered")
		w.mu.Lock()
		defer w.mu.Unlock()
		at := func(step string) int {
			i := slices.Index(w.steps, step)
			require.GreaterOrEqual(t, i, 0, "%s in %v", step, w.steps)
			return i
		}
		for _, m := range []string{"a", "b"} {
			require.Less(t, at("records "+m), at("leases "+m))
			require.Less(t, at("leases "+m), at("stream "+m))
			for _, o := range []string{"a", "b"} {
				require.Less(t, at("stream "+m), at("fence "+o))
			}
			require.Less(t, at("fence "+m), at("settle"))
		}
	})
}

// Where requests are slow, so are landings: a writer in flight is granted more than the least grace. It would be killed otherwise, or, as
// here where nothing guards it, land behind the fence.
func TestAnOpeningGrantsAGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.slow = 300 * time.Millisecond
		stamp, land := w.take(0, "k")
		w.onStep = func(what string) {
			if what == "leases b" { // the last request before the clock is read
				time.AfterFunc(3*w.slow, land)
			}
		}
		f := w.open()
		require.GreaterOrEqual(t, f.Log.Closed(), stamp)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, f.Err())
	})
}

// A stream that breaks off goes on behind what the log has.
func TestStreamsAreReopened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := w.open()
		w.write(1, "k")
		synctest.Wait()
		seen := f.Log.Position(1).Rev
		require.Equal(t, w.members[1].Revision(), seen)
		w.streams[1].breakOff(0)
		stamp := w.write(1, "l")
		time.Sleep(2 * streamRetry)
		synctest.Wait()
		asked := w.streams[1].asked
		require.Equal(t, seen+1, asked[len(asked)-1])
		require.Equal(t, w.members[1].Revision(), f.Log.Position(1).Rev)
		require.NoError(t, f.Log.WaitClosed(t.Context(), stamp))
		require.NoError(t, f.Err())
	})
}

// Compaction that overtakes a stream ends the feed: what it has missed is lost. The next one opens behind it, and what was told stays.
func TestCompactionEndsTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := w.open()
		stamp := w.write(0, "k")
		require.NoError(t, f.Log.WaitClosed(t.Context(), stamp))
		w.streams[0].breakOff(w.members[0].Revision() + 2)
		<-f.Done()
		require.ErrorIs(t, f.Err(), mergedlog.ErrOverrun)
		require.NotErrorIs(t, f.Err(), ErrFatal)
		f.Close()
		w.streams[0].breakOff(0)
		known := w.cfg.Feeds.Known()
		next := w.open()
		require.GreaterOrEqual(t, w.cfg.Feeds.Known(), known)
		require.GreaterOrEqual(t, next.Log.Closed(), stamp)
		require.NoError(t, next.Err())
	})
}

// Close waits for all that the feed runs, though members do not answer.
func TestCloseLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := w.open()
		w.members[0].SetDown(true)
		over := false
		f.Go(func(ctx context.Context) {
			<-ctx.Done()
			time.Sleep(time.Second)
			over = true
		})
		f.Close()
		require.True(t, over)
		require.Equal(t, lifetime.ErrClosed, f.Err())
		require.Equal(t, lifetime.ErrClosed, f.Log.Err())
	})
}

// An opening that is given up leaves nothing either.
func TestAnOpeningIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.members[1].SetDown(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f, err := Open(ctx, w.cfg)
		require.Nil(t, f)
		require.ErrorContains(t, err, "member b")
	})
}
