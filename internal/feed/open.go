package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Open starts the streams and closes everything up to the clock's present revision. It repeats what members do not answer until ctx
// ends. Whatever it started is gone on error; an error that is ErrFatal must end the process, and after mergedlog.ErrOverrun another
// attempt may work.
func Open(ctx context.Context, cfg *Config) (*Feed, error) {
	f := &Feed{cfg: cfg, life: lifetime.New(context.Background()), replaced: make(chan struct{})} //nolint:contextcheck // it lives as long as the feed, not as the call
	f.Log = mergedlog.New(mergedlog.Config{Members: len(cfg.Members), SlotOf: cfg.Ring.Slot, MaxBytes: cfg.LogBytes, Doubts: cfg.Doubts, OnRecord: f.onRecord})
	cfg.Feeds.follow(f.Log)
	f.Fencer = newFencer(f)
	f.locks = cfg.Resolver(f)
	f.history = history.New(f.historyConfig())
	if err := f.start(ctx); err != nil {
		f.Close()
		if end := f.Err(); errors.Is(end, errLog) { // why it had to end by itself
			err = end
		}
		return nil, err
	}
	f.hub = watchhub.New(source{f}, watchhub.Options{ProgressInterval: cfg.ProgressInterval, Logger: cfg.Logger})
	f.Go(f.Fencer.Run) //nolint:contextcheck // it lives as long as the feed, not as the call
	return f, nil
}

func (f *Feed) historyConfig() history.Config {
	cfg := history.Config{Log: f.Log, SlotOf: f.cfg.Ring.Slot, Compacted: f.cfg.Feeds.Compacted.Load, MembersOf: f.cfg.Ring.MembersOf}
	for _, m := range f.cfg.Members {
		cfg.Members = append(cfg.Members, m.Past())
	}
	return cfg
}

// start opens the members' streams, and starts the log where the clock stands then; see the package's invariants.
func (f *Feed) start(ctx context.Context) error {
	for _, m := range f.cfg.Members {
		r, err := member.Persist(ctx, func(ctx context.Context) (member.Records, error) {
			asked := time.Now()
			r, err := m.ReadOpening(ctx)
			if err == nil {
				f.request = max(f.request, time.Since(asked))
			}
			return r, err
		})
		if err != nil {
			return err
		}
		if m == f.cfg.CompactedOn {
			f.cfg.Feeds.Compacted.Raise(r.Compacted)
		}
		if err := f.cfg.Leases.Load(ctx, m.Index); err != nil {
			return err
		}
		f.Log.Open(m.Index, r.MemberState, r.Held...)
		f.life.Spawn(func() { f.stream(m, r.Rev+1) }) //nolint:contextcheck // it lives as long as the feed, not as the call
		if err := f.recall(ctx, m); err != nil {
			return err
		}
	}
	for {
		done, err := f.closeUpToClock(ctx)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	f.Go(f.locks.Run) //nolint:contextcheck // it lives as long as the feed, not as the call
	f.locks.Kick()
	return nil
}

// patience is how long writers in flight have until they are fenced off: the grace that the last feed came to, and where requests are
// slow, more than they take. A landing takes about as long as a linearizable read, and what the disks do.
func (f *Feed) patience() time.Duration {
	return min(max(fencer.MinGrace, f.cfg.Feeds.lastGrace(), requestsOfAGrace*f.request), fencer.MaxGrace)
}

const requestsOfAGrace = 3

// closeUpToClock reads the clock, gives the writers in flight one grace, and fences every member below it. It reports
// false when the epoch changed meanwhile.
func (f *Feed) closeUpToClock(ctx context.Context) (bool, error) {
	now, epoch, err := f.cfg.Clock.Read(ctx)
	if err != nil {
		return false, err
	}
	if err := lifetime.Pause(ctx, f.patience()); err != nil {
		return false, err
	}
	ok := true
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range f.cfg.Members {
		g.Go(func() error {
			r, err := member.Persist(gctx, func(ctx context.Context) (member.Raised, error) {
				ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout) // the server that was asked may hang
				defer cancel()
				return m.Raise(ctx, epoch, now)
			})
			if err != nil {
				return wire.Name(m.Name, err)
			}
			f.Log.FenceHolds(m.Index, r.Epoch, r.Fence, r.Rev)
			mu.Lock()
			ok = ok && r.Epoch == epoch
			mu.Unlock()
			return m.NotReached(r.Rev, f.Log.WaitReached(gctx, m.Index, r.Rev))
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	if !ok {
		_, err := f.cfg.Clock.Sync(ctx)
		return false, err
	}
	if err := f.cfg.Settle(ctx, f, now); err != nil {
		return false, err
	}
	return true, f.Log.Start(now)
}
