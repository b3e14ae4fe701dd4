package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/watchhub"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// feed is one unbroken run of the members' streams: the merged log they fill, and the watchers on it. When compaction
// overtakes a stream, events are lost to this process: the feed ends, its watchers that compaction has passed are cancelled with
// ErrCompacted, and the core opens a new one, to which the others come back. All of it is safe for concurrent use.
type feed struct {
	c       *core
	log     *mergedlog.Log
	hub     *watchhub.Hub
	gaps    *fencer.Fencer
	locks   *lockKeeper
	history *history.History

	passed    atomic.Int64 // up to here the hub needs nothing of the log for the watchers who keep up
	forgotten atomic.Int64

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  chan struct{} // closed when err is set
	once   sync.Once
	err    error

	replaced chan struct{} // closed when the feed has ended, and is not the core's any more
}

// openFeed starts the streams and closes everything up to the clock's present revision (section 6, start of a process).
func openFeed(ctx context.Context, c *core) (*feed, error) {
	f := &feed{c: c, ended: make(chan struct{}), replaced: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.log = mergedlog.New(mergedlog.Config{Members: len(c.members), SlotOf: c.ring.Slot, MaxBytes: c.cfg.LogBytes, Doubts: c.doubts, OnRecord: f.onRecord})
	raise(&c.closedBefore, c.closed())
	c.log.Store(f.log)
	f.gaps = newFencer(f)
	f.locks = newLockKeeper(f)
	f.history = history.New(f.historyConfig())
	if err := f.start(ctx); err != nil {
		f.close()
		if errors.Is(f.err, errLog) { // why it had to end by itself
			err = f.err
		}
		return nil, err
	}
	f.hub = watchhub.New(source{f}, watchhub.Options{ProgressInterval: c.cfg.ProgressInterval, Logger: c.cfg.Logger})
	f.wg.Go(func() { f.gaps.Run(f.ctx) })
	return f, nil
}

func (f *feed) historyConfig() history.Config {
	cfg := history.Config{Log: f.log, SlotOf: f.c.ring.Slot, Compacted: f.c.compacted.Load, MembersOf: f.c.ring.MembersOf}
	for _, m := range f.c.members {
		cfg.Members = append(cfg.Members, history.FromClient(m.cli))
	}
	return cfg
}

func (f *feed) start(ctx context.Context) error {
	for _, m := range f.c.members {
		r, err := persist(ctx, m.readOpening)
		if err != nil {
			return err
		}
		if m.index == 0 {
			f.c.noteCompacted(r.compacted)
		}
		if err := f.c.leases.Load(ctx, m.index); err != nil {
			return err
		}
		f.log.Open(m.index, r.MemberState, r.held...)
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
	f.wg.Add(1)
	go f.locks.run()
	f.locks.kick()
	return nil
}

// closeUpToClock reads the clock, gives the writers in flight one grace, and fences every member below it. It reports
// false when the epoch changed meanwhile.
func (f *feed) closeUpToClock(ctx context.Context) (bool, error) {
	now, epoch, err := f.c.clock.Read(ctx)
	if err != nil {
		return false, err
	}
	if err := pause(ctx, minGrace); err != nil {
		return false, err
	}
	ok := true
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range f.c.members {
		g.Go(func() error {
			r, err := persist(gctx, func(ctx context.Context) (raised, error) {
				ctx, cancel := context.WithTimeout(ctx, f.c.cfg.MemberTimeout) // the server that was asked may hang
				defer cancel()
				return m.raise(ctx, epoch, now)
			})
			if err != nil {
				return wire.Name(m.name, err)
			}
			f.log.FenceHolds(m.index, r.epoch, r.fence, r.rev)
			mu.Lock()
			ok = ok && r.epoch == epoch
			mu.Unlock()
			return m.notReached(r.rev, f.log.WaitReached(gctx, m.index, r.rev))
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	if !ok {
		_, err := f.c.clock.Sync(ctx)
		return false, err
	}
	if err := f.finishDecided(ctx, now); err != nil {
		return false, err
	}
	return true, f.log.Start(now)
}

// finishDecided applies what was decided at or below the clock's revision now. No more of that can be decided, and the
// streams have not seen all of its parts. It returns when they have passed all that there are.
func (f *feed) finishDecided(ctx context.Context, now int64) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range f.c.members {
		g.Go(func() error {
			decided, err := persist(gctx, m.readDecided)
			for id, d := range decided {
				if err == nil && d.Stamp <= now {
					err = f.c.rollForward(gctx, record.Holder{ID: id, Primary: m.index}, d)
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, m := range f.c.members {
		g.Go(func() error {
			rev, err := persist(gctx, m.present)
			if err != nil {
				return wire.Name(m.name, err)
			}
			return m.notReached(rev, f.log.WaitReached(gctx, m.index, rev))
		})
	}
	return g.Wait()
}

// stream feeds the log with one member's events until the feed ends. A watch that breaks off is opened again.
func (f *feed) stream(m *member, from int64) {
	defer f.wg.Done()
	watches := wire.Watches(m.cli)
	for f.ctx.Err() == nil {
		err := f.follow(m, watches, from)
		if errors.Is(err, errLog) {
			if errors.Is(err, mergedlog.ErrOverrun) {
				f.learnCompacted()
			}
			f.end(fmt.Errorf("member %s: %w", m.name, err))
			return
		}
		if f.ctx.Err() != nil {
			return
		}
		if m.unwatched.Begins() {
			f.c.cfg.Logger.Warn("a member's stream broke off; trying again", zap.String("member", m.name), zap.Error(err))
		}
		_ = pause(f.ctx, streamRetry)
		from = f.log.Position(m.index).Rev + 1
	}
}

// learnCompacted makes sure that the watchers that compaction ends can be told of its revision.
func (f *feed) learnCompacted() {
	ctx, cancel := context.WithTimeout(f.ctx, time.Second)
	defer cancel()
	if r, err := f.c.members[0].readRecords(ctx); err == nil {
		f.c.noteCompacted(r.compacted)
	}
}

// streamRetry is how long a stream that broke off rests.
const streamRetry = 100 * time.Millisecond

var (
	// errLog marks errors that end the feed.
	errLog = errors.New("the merged log cannot go on")
	// errFatal marks those of them that end the core.
	errFatal = fmt.Errorf("%w: the members contradict the protocol", errLog)
)

// follow appends a member's events until the watch breaks off, or the log cannot go on (errLog).
func (f *feed) follow(m *member, watches pb.WatchClient, from int64) error {
	err := wire.Watch(f.ctx, watches, from, true, func(evs []*mvccpb.Event) error {
		if m.unwatched.Ends() {
			f.c.cfg.Logger.Info("a member's stream is there again", zap.String("member", m.name))
		}
		if len(evs) == 0 {
			return nil
		}
		raise(&m.newest, evs[len(evs)-1].Kv.ModRevision)
		f.refreshCache(evs)
		if err := f.log.Append(m.index, revisionsOf(evs)); err != nil {
			return logError(err)
		}
		f.gaps.Kick()
		f.locks.kick()
		return nil
	})
	if errors.As(err, new(*wire.CompactedError)) {
		return fmt.Errorf("%w: %w", errLog, mergedlog.ErrOverrun)
	}
	return err
}

// logError is the error of a feed whose log failed with err.
func logError(err error) error {
	for _, fatal := range []error{mergedlog.ErrForeignWrite, mergedlog.ErrClockBroken, mergedlog.ErrOutOfOrder} {
		if errors.Is(err, fatal) {
			return fmt.Errorf("%w: %w", errFatal, err)
		}
	}
	return fmt.Errorf("%w: %w", errLog, err)
}

// refreshCache keeps what this process knows of keys up to date with other processes' writes.
func (f *feed) refreshCache(evs []*mvccpb.Event) {
	for _, e := range slices.Backward(evs) { // a revision may change a key twice: what it leaves counts
		if isReserved(e.Kv.Key) {
			continue
		}
		if known, ok := f.c.cache.Peek(e.Kv.Key); !ok || known.NativeMod >= e.Kv.ModRevision {
			continue
		}
		st := statecache.State{NativeMod: e.Kv.ModRevision}
		if e.Type == mvccpb.PUT {
			h, _, err := record.ParseHeader(e.Kv.Value)
			if err != nil {
				continue // the log will say so
			}
			st.NativeCreate, st.Stamp, st.Create, st.Version, st.Lease = e.Kv.CreateRevision, h.Stamp, h.Create, e.Kv.Version+h.VersionBase, h.Lease
		}
		f.c.cache.Refresh(e.Kv.Key, st)
	}
}

// revisionsOf groups events by member revision.
func revisionsOf(all []*mvccpb.Event) []mergedlog.MemberRevision {
	var revs []mergedlog.MemberRevision
	for len(all) > 0 {
		n, rev := 1, all[0].Kv.ModRevision
		for n < len(all) && all[n].Kv.ModRevision == rev {
			n++
		}
		revs = append(revs, mergedlog.MemberRevision{Rev: rev, Events: all[:n:n]})
		all = all[n:]
	}
	return revs
}

// onRecord follows the records of leases, and the compacted revision, which lives on the first member by name.
func (f *feed) onRecord(member int, rev int64, kv *mvccpb.KeyValue) {
	kind := record.KindOf(kv.Key)
	if kind == record.Lease {
		f.c.leases.Book().Follow(member, rev, kv)
	}
	if member != 0 || kind != record.Compacted {
		return
	}
	if rev, err := record.ParseNumber(kv.Value); err == nil {
		f.c.noteCompacted(rev)
		f.forget()
	}
}

// forget drops what is compacted from the log, but nothing that the watchers who keep up are still to see.
func (f *feed) forget() {
	r := min(f.c.compacted.Load(), f.passed.Load()+1)
	if r > f.forgotten.Load() {
		raise(&f.forgotten, r)
		f.log.SetCompacted(r)
	}
}

// end stops the feed with the error that its readers get.
func (f *feed) end(err error) {
	f.once.Do(func() {
		f.err = err
		f.log.Fail(err)
		close(f.ended)
		f.cancel()
		if f.c.ctx.Err() == nil {
			f.c.cfg.Logger.Warn("the merged log ended", zap.Error(err))
		}
	})
}

// close ends the feed and waits for its goroutines.
func (f *feed) close() {
	f.end(ErrClosed)
	if f.hub != nil {
		f.hub.Close()
	}
	f.wg.Wait()
}

// over reports whether the feed has ended, or is about to: its log shows nothing new.
func (f *feed) over() bool { return f.log.Err() != nil }

// overtook reports whether err says that the feed is over. There will be another one, or the core is over as well.
func (f *feed) overtook(err error) bool {
	end := f.log.Err()
	return end != nil && errors.Is(err, end)
}

// orEnd returns an error that a read met, or the feed's end if the read may have failed because of it.
func (f *feed) orEnd(err error) error {
	if end := f.log.Err(); err != nil && end != nil {
		return end
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
