package read

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/feed"
)

// lookAgain is how soon a read that waits for a revision makes sure that the clock it came from is still there, and lookAgainMost
// how rarely: where landings are slow, many readers wait, and each time asks the coordinator.
const (
	lookAgain     = 100 * time.Millisecond
	lookAgainMost = time.Second
)

// Serve runs read at a present revision, again when compaction by another process overtook it: this process was behind.
func (r *Reader) Serve(ctx context.Context, read func(f *feed.Feed) error) error {
	for {
		f, err := r.cfg.Feeds.Wait(ctx)
		if err != nil {
			return err
		}
		err = read(f)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, rpctypes.ErrGRPCCompacted) && !errors.As(err, new(AskedError)):
			err = r.catchUp(ctx, f)
		}
		switch {
		case err == nil:
		case !f.Overtook(err):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// catchUp learns of a compaction by another process, and waits until this one has closed what it kept.
func (r *Reader) catchUp(ctx context.Context, f *feed.Feed) error {
	rec, err := r.cfg.CompactedOn.ReadRecords(ctx)
	if err != nil {
		return err
	}
	r.cfg.Feeds.Compacted.Raise(rec.Compacted)
	f.Fencer.Kick()
	return f.Log.WaitClosed(ctx, rec.Compacted)
}

// linearize waits until everything that was acknowledged before the call is closed, and returns a closed revision
// that covers it.
func (r *Reader) linearize(ctx context.Context, f *feed.Feed) (int64, error) {
	return r.cover(ctx, f, r.cfg.Clock.StartRead())
}

// cover is linearize, for everything that was acknowledged before a reading of the clock was started.
func (r *Reader) cover(ctx context.Context, f *feed.Feed, reading clock.Reading) (int64, error) {
	target, epoch, err := reading.Wait(ctx)
	if err != nil {
		return 0, err
	}
	return r.reach(ctx, f, target, epoch)
}

// reach waits until a reading of the clock in epoch is closed.
func (r *Reader) reach(ctx context.Context, f *feed.Feed, target, epoch int64) (int64, error) {
	for wait := lookAgain; ; wait = min(2*wait, lookAgainMost) {
		if w := f.Log.Closed(); w >= target {
			return w, nil
		}
		f.Fencer.Await(epoch, target)
		waiting, cancel := context.WithTimeout(ctx, wait)
		err := f.Log.WaitClosed(waiting, target)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			if err == nil {
				return f.Log.Closed(), nil
			}
			return 0, err
		}
		// A clock that was rebuilt may never reach a reading of its predecessor.
		again, cancel := context.WithTimeout(ctx, lookAgain)
		if now, e, err := r.cfg.Clock.Read(again); err == nil && e != epoch {
			target, epoch = now, e
		}
		cancel()
	}
}

// headerRevision is the revision that an answer's header carries. It may still be found out while the answer is read.
type headerRevision func(ctx context.Context) (int64, error)

// readRevision finds the revision that a range request is served at, and the one its header carries.
func (r *Reader) readRevision(ctx context.Context, f *feed.Feed, req *pb.RangeRequest) (at int64, header headerRevision, err error) {
	if req.Serializable {
		return r.serializableRevision(ctx, f, req)
	}
	w := f.Log.Closed()
	if req.Revision > 0 && req.Revision <= w {
		if err := r.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, Asked(err, true)
		}
		return req.Revision, r.revisionBeside(f, req.Revision), nil
	}
	if w, err = r.linearize(ctx, f); err != nil {
		return 0, nil, err
	}
	at = w
	if req.Revision > 0 {
		if err := r.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, Asked(err, true)
		}
		at = req.Revision
	}
	return at, constant(max(w, at)), nil
}

// revisionBeside asks the clock while a closed revision is read: only the header depends on the answer, and whether
// somebody has compacted that revision by now.
func (r *Reader) revisionBeside(f *feed.Feed, rev int64) headerRevision {
	reading := r.cfg.Clock.StartRead()
	return func(ctx context.Context) (int64, error) {
		w, err := r.cover(ctx, f, reading)
		if err != nil {
			return 0, err
		}
		return w, Asked(r.checkRevision(ctx, f, rev), true)
	}
}

// checkRevision accepts a revision that can be read: not compacted, not in the future. It returns when it is closed.
func (r *Reader) checkRevision(ctx context.Context, f *feed.Feed, rev int64) error {
	if rev < 0 || rev < r.cfg.Feeds.Compacted.Load() {
		return rpctypes.ErrGRPCCompacted
	}
	if rev <= f.Log.Closed() {
		return nil
	}
	w, err := r.linearize(ctx, f)
	if err == nil && rev > w {
		err = rpctypes.ErrGRPCFutureRev
	}
	return err
}

// RevisionFor returns a closed revision that is present when Compact(rev) is called. One that is known to be there already may be
// compacted while the closed revision is held up: a member may just need the space.
func (r *Reader) RevisionFor(ctx context.Context, f *feed.Feed, rev int64) (int64, error) {
	if rev > f.Log.Closed() {
		return r.linearize(ctx, f)
	}
	wait, cancel := context.WithTimeout(ctx, fencedReadAfter)
	defer cancel()
	at, err := r.linearize(wait, f)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return f.Log.Closed(), nil
	}
	return at, err
}

// LinearizableHeader is a header that covers everything acknowledged before the call, by any process.
func (r *Reader) LinearizableHeader(ctx context.Context) (*pb.ResponseHeader, error) {
	h := r.cfg.Feeds.Header()
	err := r.Serve(ctx, func(f *feed.Feed) (err error) {
		h.Revision, err = r.linearize(ctx, f)
		return err
	})
	return h, err
}
