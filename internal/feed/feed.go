package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/wire"
)

func (f *Feed) start(ctx context.Context) error {
	for _, m := range f.cfg.Members {
		r, err := member.Persist(ctx, m.ReadOpening)
		if err != nil {
			return err
		}
		if m.Index == 0 {
			f.cfg.Feeds.Compacted.Raise(r.Compacted)
		}
		if err := f.cfg.Leases.Load(ctx, m.Index); err != nil {
			return err
		}
		f.Log.Open(m.Index, r.MemberState, r.Held...)
		f.wg.Add(1)
		go f.stream(m, r.Rev+1) //nolint:contextcheck // it lives as long as the feed, not as the call
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
	f.wg.Go(func() { f.locks.Run(f.ctx) })
	f.locks.Kick()
	return nil
}

// closeUpToClock reads the clock, gives the writers in flight one grace, and fences every member below it. It reports
// false when the epoch changed meanwhile.
func (f *Feed) closeUpToClock(ctx context.Context) (bool, error) {
	now, epoch, err := f.cfg.Clock.Read(ctx)
	if err != nil {
		return false, err
	}
	if err := lifetime.Pause(ctx, MinGrace); err != nil {
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

// end stops the feed with the error that its readers get.
func (f *Feed) end(err error) {
	f.once.Do(func() {
		f.Err = err
		f.Log.Fail(err)
		close(f.Ended)
		f.cancel()
		if f.cfg.Life.Context().Err() == nil {
			f.cfg.Logger.Warn("the merged log ended", zap.Error(err))
		}
	})
}

// Close ends the feed and waits for its goroutines.
func (f *Feed) Close() {
	f.end(lifetime.ErrClosed)
	if f.Hub != nil {
		f.Hub.Close()
	}
	f.wg.Wait()
}

// Over reports whether the feed has ended, or is about to: its log shows nothing new.
func (f *Feed) Over() bool { return f.Log.Err() != nil }

// Overtook reports whether err says that the feed is over. There will be another one, or the process is over as well.
func (f *Feed) Overtook(err error) bool {
	end := f.Log.Err()
	return end != nil && errors.Is(err, end)
}

// OrEnd returns an error that a read met, or the feed's end if the read may have failed because of it.
func (f *Feed) OrEnd(err error) error {
	if end := f.Log.Err(); err != nil && end != nil {
		return end
	}
	return err
}

// Snapshot finds where a snapshot at r is on each member: in memory, or in the members' histories. What is not closed is settled
// on the members.
func (f *Feed) Snapshot(ctx context.Context, r int64, members []int, key, end []byte) ([]mergedlog.MemberSnapshot, error) {
	read := f.Log.Snapshot
	if r > f.Log.Closed() {
		read = f.Log.SettledSnapshot
	}
	snaps, err := read(r, members, key, end)
	if errors.Is(err, mergedlog.ErrEvicted) {
		if err := f.Log.WaitClosed(ctx, r); err != nil {
			return nil, err
		}
		ctx, cancel := f.cfg.Life.Within(ctx)
		defer cancel()
		return f.history.Snapshot(ctx, r, members, key, end)
	}
	return snaps, err
}

// Lo is the last native revision of a member before any stamp above r.
func (f *Feed) Lo(ctx context.Context, member int, r int64) (int64, error) {
	if r >= 0 {
		if lo, _, ok := f.Log.Lo(member, r); ok {
			return lo, nil
		}
	}
	ctx, cancel := f.cfg.Life.Within(ctx)
	defer cancel()
	return f.history.Lo(ctx, member, r)
}

// learnCompacted makes sure that the watchers that compaction ends can be told of its revision.
func (f *Feed) learnCompacted() {
	ctx, cancel := context.WithTimeout(f.ctx, time.Second)
	defer cancel()
	if r, err := f.cfg.Members[0].ReadRecords(ctx); err == nil {
		f.cfg.Feeds.Compacted.Raise(r.Compacted)
	}
}

// Await says that somebody waits until a revision that was handed out is closed.
func (f *Feed) Await(rev int64) { f.Fencer.Await(f.cfg.Clock.Epoch(), rev) }

// Forget drops what is compacted from the log, but nothing that the watchers who keep up are still to see.
func (f *Feed) Forget() {
	r := min(f.cfg.Feeds.Compacted.Load(), f.passed.Load()+1)
	if r > f.forgotten.Load() {
		f.forgotten.Raise(r)
		f.Log.SetCompacted(r)
	}
}
