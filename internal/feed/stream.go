package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// streamRetry is how long a stream that broke off rests.
const streamRetry = 100 * time.Millisecond

var (
	// errLog marks errors that end the feed.
	errLog = errors.New("the merged log cannot go on")
	// ErrFatal marks those of them that end the process.
	ErrFatal = fmt.Errorf("%w: the members contradict the protocol", errLog)
)

// stream feeds the log with one member's events until the feed ends. A watch that breaks off is opened again.
func (f *Feed) stream(m *member.Member, from int64) {
	ctx, watches := f.life.Context(), m.Watches()
	for ctx.Err() == nil {
		err := f.follow(ctx, m, watches, from)
		if errors.Is(err, errLog) {
			if errors.Is(err, mergedlog.ErrOverrun) {
				f.learnCompacted()
			}
			f.end(fmt.Errorf("member %s: %w", m.Name, err))
			return
		}
		if ctx.Err() != nil {
			return
		}
		if m.NoteUnwatched() {
			f.cfg.Logger.Warn("a member's stream broke off; trying again", zap.String("member", m.Name), zap.Error(err))
		}
		_ = lifetime.Pause(ctx, streamRetry)
		from = f.Log.Position(m.Index).Rev + 1
	}
}

// follow appends a member's events until the watch breaks off, or the log cannot go on (errLog).
func (f *Feed) follow(ctx context.Context, m *member.Member, watches pb.WatchClient, from int64) error {
	err := wire.Watch(ctx, watches, from, true, func(evs []*mvccpb.Event) error {
		if m.NoteWatched() {
			f.cfg.Logger.Info("a member's stream is there again", zap.String("member", m.Name))
		}
		if len(evs) == 0 {
			return nil
		}
		m.NoteShown(evs[len(evs)-1].Kv.ModRevision)
		f.refreshCache(evs)
		if err := f.Log.Append(m.Index, revisionsOf(evs)); err != nil {
			return logError(err)
		}
		f.Fencer.Kick()
		f.locks.Kick()
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
			return fmt.Errorf("%w: %w", ErrFatal, err)
		}
	}
	return fmt.Errorf("%w: %w", errLog, err)
}

// refreshCache keeps what this process knows of keys up to date with other processes' writes.
func (f *Feed) refreshCache(evs []*mvccpb.Event) {
	for _, e := range slices.Backward(evs) { // a revision may change a key twice: what it leaves counts
		if isReserved(e.Kv.Key) {
			continue
		}
		if known, ok := f.cfg.Cache.Peek(e.Kv.Key); !ok || known.NativeMod >= e.Kv.ModRevision {
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
		f.cfg.Cache.Refresh(e.Kv.Key, st)
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

// onRecord follows the records of leases, and the compacted revision, which lives on the member that the topology names.
func (f *Feed) onRecord(member int, rev int64, kv *mvccpb.KeyValue) {
	kind := record.KindOf(kv.Key)
	if kind == record.Lease {
		f.cfg.Leases.Book().Follow(member, rev, kv)
	}
	if member != f.cfg.CompactedOn.Index || kind != record.Compacted {
		return
	}
	if rev, err := record.ParseNumber(kv.Value); err == nil {
		f.cfg.Feeds.Compacted.Raise(rev)
		f.Forget()
	}
}

// isReserved reports whether a key is one of metaetcd's own names.
func isReserved(key []byte) bool { return len(key) > 0 && key[0] == record.Reserved }
