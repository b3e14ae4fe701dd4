package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// halfOpen is an engine as it is before there is anything but its life.
func halfOpen(t *testing.T, reg prometheus.Registerer) *Engine {
	set, err := metrics.New(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "state"}))
	require.NoError(t, err)
	return &Engine{Life: lifetime.New(context.Background()), Metrics: set, logger: zap.NewNop()}
}

// running has the lanes and the lessor, too, and waits for a feed. It has no member that could be asked.
func running(t *testing.T) *Engine {
	e := halfOpen(t, nil)
	e.Feeds = feed.NewCurrent(e.Life, feed.Identity{})
	e.commit = commit.New(commit.Config{Members: []commit.Member{{Name: "a"}}})
	e.Leases = lease.New(lease.Config{Logger: zap.NewNop()})
	t.Cleanup(e.Close)
	return e
}

// A process that has failed tells everybody why: who waits, who comes, and who sends.
func TestAFailureTellsEverybodyWhy(t *testing.T) {
	e := running(t)
	waited := make(chan error, 1)
	go func() {
		_, err := e.Feeds.Wait(context.Background())
		waited <- err
	}()
	e.fail(mergedlog.ErrForeignWrite)

	require.ErrorIs(t, <-waited, mergedlog.ErrForeignWrite)
	require.ErrorIs(t, e.Life.Cause(), mergedlog.ErrForeignWrite)
	require.ErrorIs(t, e.stopped(), mergedlog.ErrForeignWrite, "nothing is sent any more")
	_, err := e.commit.Do(t.Context(), 0, &commit.Op{})
	require.ErrorIs(t, err, mergedlog.ErrForeignWrite)
	require.ErrorIs(t, e.Over(t.Context(), context.Canceled), mergedlog.ErrForeignWrite)

	e.Close()
	e.Close()
	require.ErrorIs(t, e.Life.Cause(), mergedlog.ErrForeignWrite, "the first cause counts")
}

// A process that is closed finishes what it has begun, but takes nothing new.
func TestAClosedProcessMayStillSend(t *testing.T) {
	e := running(t)
	require.NoError(t, e.stopped())
	e.Close()
	require.NoError(t, e.stopped())
	_, err := e.commit.Do(t.Context(), 0, &commit.Op{})
	require.ErrorIs(t, err, commit.ErrClosed)
	_, err = e.Feeds.Wait(t.Context())
	require.ErrorIs(t, err, lifetime.ErrClosed)
}

// The lanes are shut before what runs in the life is waited for, or it would wait for them for ever.
func TestTheLanesAreShutBeforeTheLifeIsAwaited(t *testing.T) {
	e := running(t)
	var err error
	require.True(t, e.Life.Spawn(func() {
		<-e.Life.Context().Done()
		for err == nil || !errors.Is(err, commit.ErrClosed) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, err = e.commit.Do(ctx, 0, &commit.Op{})
		}
	}))
	e.Close()
	require.ErrorIs(t, err, commit.ErrClosed)
}

// What could not be opened is unwound, whatever there was of it: its names in the registry are free again.
func TestCloseOfWhatIsHalfOpen(t *testing.T) {
	reg := prometheus.NewRegistry()
	for range 2 {
		halfOpen(t, reg).Close()
	}
	all, err := reg.Gather()
	require.NoError(t, err)
	require.Empty(t, all)
}
