package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// Feed is one unbroken run of the members' streams: the merged log they fill, and the watchers on it. When compaction
// overtakes a stream, events are lost to this process: the feed ends, its watchers are cancelled with ErrCompacted, and
// the engine opens a new one. It is safe for concurrent use.
type Feed struct {
	// Log and Fencer are the feed's for good: they are set before anybody gets it.
	Log    *mergedlog.Log
	Fencer *fencer.Fencer

	cfg     *Config
	hub     *watchhub.Hub // nil until the log has started
	locks   Resolver
	history *history.History

	passed    lifetime.Watermark // up to here the hub needs nothing of the log for the watchers who keep up
	forgotten lifetime.Watermark // up to here the log has dropped what is compacted

	request time.Duration // the slowest request of the opening

	life *lifetime.Life // ends with the feed's cause
	once sync.Once      // of end

	replaced chan struct{} // closed when the feed has ended, and does not serve any more
}

// end stops the feed with the error that its readers get.
func (f *Feed) end(err error) {
	f.once.Do(func() {
		f.Log.Fail(err)
		f.life.End(err)
		if !f.cfg.Life.Over() {
			f.cfg.Logger.Warn("the merged log ended", zap.Error(err))
		}
	})
}

// Close ends the feed, with lifetime.ErrClosed if it has not ended before, and returns when none of its goroutines is left. It is
// idempotent. It must not be called by what Go runs.
func (f *Feed) Close() {
	f.end(lifetime.ErrClosed)
	if f.hub != nil {
		f.hub.Close()
	}
	f.life.Wait()
}

// Done is closed when the feed has ended.
func (f *Feed) Done() <-chan struct{} { return f.life.Context().Done() }

// Err is why the feed has ended; nil while it goes on. An error that is ErrFatal must end the process; after mergedlog.ErrOverrun a new
// feed can be opened.
func (f *Feed) Err() error { return f.life.Cause() }

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

// Go runs fn as a part of the feed, with a context that ends with it: closing the feed waits for fn. A feed that has ended runs nothing.
func (f *Feed) Go(fn func(ctx context.Context)) {
	f.life.Spawn(func() { fn(f.life.Context()) })
}

// Watch serves a stream of the Watch service until the stream or the feed ends.
func (f *Feed) Watch(stream pb.Watch_WatchServer) error { return f.hub.Watch(stream) }

// Watchers returns how many watchers there are, how many of them lag behind the log, and how many events were sent to them.
func (f *Feed) Watchers() (all, lagging int, events uint64) { return f.hub.Stats() }

// Snapshot finds where a snapshot at r is on each member: in memory, or in the members' histories. What is not closed is settled
// on the members. The indices of members are in ascending order, and so is what it returns.
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

// Lo is the last revision of a member before any stamp above r.
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

// Await says that somebody waits until a revision that was handed out is closed: gaps below it are fenced off.
func (f *Feed) Await(rev int64) { f.Fencer.Await(f.cfg.Clock.Epoch(), rev) }

// Forget drops what is compacted from the log, but nothing that the watchers who keep up are still to see.
func (f *Feed) Forget() {
	r := min(f.cfg.Feeds.Compacted.Load(), f.passed.Load()+1)
	if r > f.forgotten.Load() {
		f.forgotten.Raise(r)
		f.Log.SetCompacted(r)
	}
}

// Grace is how long a missing stamp, or what else a slow writer is at, may take at present.
func (f *Feed) Grace() time.Duration {
	if f.Fencer == nil { // it has nothing but a log
		return MinGrace
	}
	return f.Fencer.Grace()
}

// learnCompacted makes sure that the watchers that compaction ends can be told of its revision.
func (f *Feed) learnCompacted() {
	ctx, cancel := context.WithTimeout(f.life.Context(), time.Second)
	defer cancel()
	if r, err := f.cfg.CompactedOn.ReadRecords(ctx); err == nil {
		f.cfg.Feeds.Compacted.Raise(r.Compacted)
	}
}
