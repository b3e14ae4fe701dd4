package lifetime_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errClosed = errors.New("closed")

func TestWaitWaitsForWhatWasSpawned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lifetime.New(t.Context())
		begin := time.Now()
		require.True(t, l.Spawn(func() {
			<-l.Context().Done()
			time.Sleep(time.Second)
		}))
		require.False(t, l.Over())
		l.End(errClosed)
		require.True(t, l.Over())
		l.Wait()
		require.Equal(t, time.Second, time.Since(begin))
		require.False(t, l.Spawn(func() { t.Error("spawned after the end") }))
	})
}

// Nothing runs after Wait, whoever spawns while the life ends.
func TestSpawnAgainstEnd(t *testing.T) {
	for range 100 {
		l := lifetime.New(t.Context())
		var running atomic.Int64
		var spawners sync.WaitGroup
		for range 4 {
			spawners.Go(func() {
				for {
					running.Add(1)
					if !l.Spawn(func() { running.Add(-1) }) {
						running.Add(-1)
						return
					}
				}
			})
		}
		l.End(nil)
		l.Wait()
		spawners.Wait()
		require.Zero(t, running.Load())
	}
}

func TestTheFirstCauseCounts(t *testing.T) {
	l := lifetime.New(t.Context())
	l.End(errClosed)
	l.End(errors.New("later"))
	require.Equal(t, errClosed, context.Cause(l.Context()))
	require.Equal(t, context.Canceled, l.Context().Err())

	l = lifetime.New(t.Context())
	l.End(nil)
	require.Equal(t, context.Canceled, context.Cause(l.Context()))

	parent, cancel := context.WithCancelCause(t.Context())
	l = lifetime.New(parent)
	cancel(errClosed)
	require.True(t, l.Over())
	require.Equal(t, errClosed, context.Cause(l.Context()))
}

func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lifetime.New(t.Context())
		type key struct{}
		freed, free := l.Within(t.Context())
		free()
		require.Equal(t, context.Canceled, freed.Err())

		caller, leave := context.WithCancel(context.WithValue(t.Context(), key{}, 1))
		left, free := l.Within(caller)
		defer free()
		require.Equal(t, 1, left.Value(key{}))
		leave()
		require.Equal(t, context.Canceled, left.Err())

		ended, free := l.Within(t.Context())
		defer free()
		require.NoError(t, ended.Err())
		l.End(errClosed)
		<-ended.Done()
		require.Equal(t, errClosed, context.Cause(ended))
		require.Equal(t, context.Canceled, ended.Err())
		late, free := l.Within(t.Context())
		defer free()
		<-late.Done()
		require.Equal(t, errClosed, context.Cause(late))
	})
}

func TestLingering(t *testing.T) {
	const timeout, linger = 10 * time.Second, time.Second
	for name, tt := range map[string]struct {
		endsAfter, lasts time.Duration
		cause            error
	}{
		"the life goes on":                {time.Hour, timeout, context.DeadlineExceeded},
		"the life ends":                   {3 * time.Second, 3*time.Second + linger, errClosed},
		"the life has ended":              {0, linger, errClosed},
		"the timeout is before the grace": {timeout - linger/2, timeout, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lifetime.New(t.Context())
				end := time.AfterFunc(tt.endsAfter, func() { l.End(errClosed) })
				defer end.Stop()
				if tt.endsAfter == 0 {
					<-l.Context().Done()
				}
				begin := time.Now()
				ctx, free := l.Lingering(timeout, linger)
				defer free()
				<-ctx.Done()
				require.Equal(t, tt.lasts, time.Since(begin))
				require.Equal(t, tt.cause, context.Cause(ctx))
			})
		})
	}
}

// What was freed leaves nothing that would end later: synctest would wait for it.
func TestFreedContextsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lifetime.New(t.Context())
		begin := time.Now()
		_, free := l.Lingering(time.Hour, time.Hour)
		free()
		l.End(nil)
		ctx, free := l.Lingering(time.Hour, time.Hour)
		synctest.Wait()
		free()
		<-ctx.Done()
		synctest.Wait()
		require.Zero(t, time.Since(begin))
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		require.NoError(t, lifetime.Pause(t.Context(), time.Second))
		require.Equal(t, time.Second, time.Since(begin))

		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errClosed) })
		require.Equal(t, errClosed, lifetime.Pause(ctx, time.Hour))
		require.Equal(t, 2*time.Second, time.Since(begin))
	})
}

func TestWake(t *testing.T) {
	c := make(chan struct{}, 1)
	lifetime.Wake(c)
	lifetime.Wake(c)
	<-c
	require.Empty(t, c)
	lifetime.Wake(c)
	require.Len(t, c, 1)
}
