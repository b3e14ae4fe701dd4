package feed

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// still returns a feed without streams, of a process that lives as long as the test.
func still(t *testing.T) *Feed {
	return &Feed{
		cfg:  &Config{Life: lifetime.New(t.Context()), Logger: zap.NewNop(), Cache: statecache.New(100)},
		Log:  mergedlog.New(mergedlog.Config{Members: 1}),
		life: lifetime.New(context.Background()), replaced: make(chan struct{}),
	}
}

// Requests wait while there is no feed, or while the one that there is has ended, for the next.
func TestWaitForAFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCurrent(lifetime.New(t.Context()), Identity{})
		got := make(chan *Feed, 1)
		wait := func() {
			f, err := c.Wait(t.Context())
			require.NoError(t, err)
			got <- f
		}
		first, second := still(t), still(t)
		require.Nil(t, c.Now())
		go wait()
		synctest.Wait()
		require.Empty(t, got)
		c.Set(first)
		require.Same(t, first, <-got)
		require.Same(t, first, c.Now())

		first.end(errLog)
		go wait()
		synctest.Wait()
		require.Empty(t, got, "it has ended")
		c.Set(nil)
		require.Nil(t, c.Now())
		synctest.Wait()
		require.Empty(t, got)
		c.Set(second)
		require.Same(t, second, <-got)
		second.Close()
	})
}

// Who waits leaves with its context, or with the process, whose cause it gets.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life := lifetime.New(t.Context())
		c := NewCurrent(life, Identity{})
		ctx, leave := context.WithCancel(t.Context())
		errs := make(chan error)
		wait := func(ctx context.Context) { _, err := c.Wait(ctx); errs <- err }
		go wait(ctx)
		synctest.Wait()
		leave()
		require.ErrorIs(t, <-errs, context.Canceled)
		why := errors.New("over")
		go wait(t.Context())
		synctest.Wait()
		life.End(why)
		require.Equal(t, why, <-errs)
		c.Set(still(t))
		_, err := c.Wait(t.Context())
		require.Equal(t, why, err)
	})
}

// A feed ends once, with the first cause, after its log has failed; then nothing of it runs, and nothing more begins.
func TestEnd(t *testing.T) {
	f, why := still(t), fmt.Errorf("%w: %w", errLog, mergedlog.ErrOverrun)
	ran := make(chan error, 1)
	f.Go(func(ctx context.Context) { <-ctx.Done(); ran <- f.Log.Err() })
	require.NoError(t, f.Err())
	require.False(t, f.Over())
	require.False(t, f.Overtook(why))
	require.Equal(t, why, f.OrEnd(why))
	f.end(why)
	f.Close()
	require.Equal(t, why, <-ran)
	<-f.Done()
	require.Equal(t, why, f.Err())
	require.True(t, f.Over())
	require.True(t, f.Overtook(fmt.Errorf("a read: %w", why)))
	require.False(t, f.Overtook(context.Canceled))
	require.NoError(t, f.OrEnd(nil))
	require.Equal(t, why, f.OrEnd(context.Canceled))
	f.Go(func(context.Context) { t.Error("it has ended") })
	f.Close()
}

// Errors of the log that contradict the protocol end the process; a feed that was overtaken is opened again.
func TestErrorsOfTheLog(t *testing.T) {
	for err, fatal := range map[error]bool{
		mergedlog.ErrForeignWrite: true, mergedlog.ErrClockBroken: true, mergedlog.ErrOutOfOrder: true, mergedlog.ErrOverrun: false,
	} {
		got := logError(fmt.Errorf("more: %w", err))
		require.ErrorIs(t, got, err)
		require.ErrorIs(t, got, errLog)
		require.Equal(t, fatal, errors.Is(got, ErrFatal), err)
	}
}

func event(rev int64, kind mvccpb.Event_EventType, key string, h record.Header) *mvccpb.Event {
	ev := &mvccpb.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}}
	if kind == mvccpb.PUT {
		ev.Kv.CreateRevision, ev.Kv.Version, ev.Kv.Value = rev, 1, h.Value(nil)
	}
	return ev
}

// Revisions come out whole, in order, and do not share room to grow.
func TestRevisionsOf(t *testing.T) {
	require.Empty(t, revisionsOf(nil))
	var evs []*mvccpb.Event
	for _, rev := range []int64{5, 7, 7, 7, 8} {
		evs = append(evs, event(rev, mvccpb.PUT, "k", record.Header{Stamp: rev}))
	}
	revs := revisionsOf(evs)
	require.Len(t, revs, 3)
	for i, want := range []mergedlog.MemberRevision{{Rev: 5, Events: evs[:1]}, {Rev: 7, Events: evs[1:4]}, {Rev: 8, Events: evs[4:]}} {
		require.Equal(t, want.Rev, revs[i].Rev)
		require.Equal(t, want.Events, revs[i].Events)
		require.Equal(t, len(want.Events), cap(revs[i].Events))
	}
}

// The cache learns what a revision leaves of the keys that it knows, and nothing that is older or that it does not know.
func TestRefreshCache(t *testing.T) {
	f := still(t)
	cache := f.cfg.Cache
	for _, key := range []string{"put", "deleted", "again", "newer"} {
		cache.Learn([]byte(key), statecache.State{NativeMod: 4, NativeCreate: 4, Stamp: 40})
	}
	cache.Learn([]byte("newer"), statecache.State{NativeMod: 9, NativeCreate: 4, Stamp: 90})
	f.refreshCache([]*mvccpb.Event{
		event(5, mvccpb.PUT, "put", record.Header{Stamp: 50, Create: 50, VersionBase: 2, Lease: 6}),
		event(6, mvccpb.DELETE, "deleted", record.Header{}),
		event(7, mvccpb.DELETE, "again", record.Header{}),
		event(7, mvccpb.PUT, "again", record.Header{Stamp: 70, Create: 70}),
		event(7, mvccpb.PUT, "newer", record.Header{Stamp: 70, Create: 70}),
		event(8, mvccpb.PUT, "unknown", record.Header{Stamp: 80, Create: 80}),
	})
	for key, want := range map[string]statecache.State{
		"put":     {NativeMod: 5, NativeCreate: 5, Stamp: 50, Create: 50, Version: 3, Lease: 6},
		"deleted": {NativeMod: 6},
		"again":   {NativeMod: 7, NativeCreate: 7, Stamp: 70, Create: 70, Version: 1},
		"newer":   {NativeMod: 9, NativeCreate: 4, Stamp: 90},
	} {
		got, known := cache.Get([]byte(key))
		require.True(t, known, key)
		require.Equal(t, want, got, key)
	}
	require.False(t, cache.Has([]byte("unknown")))
}
