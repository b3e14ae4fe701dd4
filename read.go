package metaetcd

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// fencedReadAfter is how long a linearizable read of one key waits at least for the closed revision before it asks the key's member
// alone, because another member, which is away, holds the revision up. That is a write to the key's slot: merely slow landings
// are waited for.
const fencedReadAfter = 250 * time.Millisecond

// lookAgain is how soon a read that waits for a revision makes sure that the clock it came from is still there, and lookAgainMost
// how rarely: where landings are slow, many readers wait, and each time asks the coordinator.
const (
	lookAgain     = 100 * time.Millisecond
	lookAgainMost = time.Second
)

// linearize waits until everything that was acknowledged before the call is closed, and returns a closed revision
// that covers it (section 7).
func (c *core) linearize(ctx context.Context, f *feed) (int64, error) {
	return c.cover(ctx, f, c.clock.StartRead())
}

// cover is linearize, for everything that was acknowledged before a reading of the clock was started.
func (c *core) cover(ctx context.Context, f *feed, reading clock.Reading) (int64, error) {
	target, epoch, err := reading.Wait(ctx)
	if err != nil {
		return 0, err
	}
	return c.reach(ctx, f, target, epoch)
}

// reach waits until a reading of the clock in epoch is closed.
func (c *core) reach(ctx context.Context, f *feed, target, epoch int64) (int64, error) {
	for wait := lookAgain; ; wait = min(2*wait, lookAgainMost) {
		if w := f.log.Closed(); w >= target {
			return w, nil
		}
		f.gaps.Await(epoch, target)
		waiting, cancel := context.WithTimeout(ctx, wait)
		err := f.log.WaitClosed(waiting, target)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			if err == nil {
				return f.log.Closed(), nil
			}
			return 0, err
		}
		// A clock that was rebuilt may never reach a reading of its predecessor.
		again, cancel := context.WithTimeout(ctx, lookAgain)
		if now, e, err := c.clock.Read(again); err == nil && e != epoch {
			target, epoch = now, e
		}
		cancel()
	}
}

// present is the revision that an answer's header carries. It may still be found out while the answer is read.
type present func(ctx context.Context) (int64, error)

// readRevision finds the revision that a range request is served at, and the one its header carries.
func (c *core) readRevision(ctx context.Context, f *feed, req *pb.RangeRequest) (at int64, header present, err error) {
	if req.Serializable {
		return c.serializableRevision(ctx, f, req)
	}
	w := f.log.Closed()
	if req.Revision > 0 && req.Revision <= w {
		if err := c.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, asked(err, true)
		}
		return req.Revision, c.presentBeside(f, req.Revision), nil
	}
	if w, err = c.linearize(ctx, f); err != nil {
		return 0, nil, err
	}
	at = w
	if req.Revision > 0 {
		if err := c.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, asked(err, true)
		}
		at = req.Revision
	}
	return at, constant(max(w, at)), nil
}

// presentBeside asks the clock while a closed revision is read: only the header depends on the answer, and whether
// somebody has compacted that revision by now.
func (c *core) presentBeside(f *feed, rev int64) present {
	reading := c.clock.StartRead()
	return func(ctx context.Context) (int64, error) {
		w, err := c.cover(ctx, f, reading)
		if err != nil {
			return 0, err
		}
		return w, asked(c.checkRevision(ctx, f, rev), true)
	}
}

// checkRevision accepts a revision that can be read: not compacted, not in the future. It returns when it is closed.
func (c *core) checkRevision(ctx context.Context, f *feed, rev int64) error {
	if rev < 0 || rev < c.compacted.Load() {
		return rpctypes.ErrGRPCCompacted
	}
	if rev <= f.log.Closed() {
		return nil
	}
	w, err := c.linearize(ctx, f)
	if err == nil && rev > w {
		err = rpctypes.ErrGRPCFutureRev
	}
	return err
}

// readKey serves a linearizable read of one key. It reads at the revision that is closed already while the clock is asked: where
// nobody writes, that is the answer. When the closed revision is held up, the key's member is asked alone.
func (c *core) readKey(ctx context.Context, f *feed, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	reading := c.clock.StartRead()
	early, resp := f.log.Closed(), (*pb.RangeResponse)(nil)
	guessed := early >= c.told.Load() && c.guesses.worthIt()
	if guessed {
		resp, _ = c.rangeAt(ctx, f, req, early, nil)
	}
	target, epoch, err := reading.Wait(ctx) // as long as it takes: a fenced read needs the clock as well
	if err != nil {
		return nil, err
	}
	wait, cancel := f.gaps.WhileMoving(ctx, fencedReadAfter)
	at, err := c.reach(wait, f, target, epoch)
	stuck := errors.Is(context.Cause(wait), fencer.ErrStuck)
	cancel()
	switch {
	case err != nil && stuck:
		return c.fencedRead(ctx, req)
	case err != nil:
		return nil, err
	}
	if guessed {
		c.guesses.was(at == early)
	}
	if resp == nil || at != early {
		if resp, err = c.rangeAt(ctx, f, req, at, nil); err != nil {
			return nil, err
		}
	}
	resp.Header = c.header()
	resp.Header.Revision = at
	return resp, nil
}

// guesses decides whether reads are worth a request that may be for nothing. The zero value is ready to use.
type guesses struct{ rest atomic.Int32 }

// guessRest is how many reads do not guess after a guess was wrong.
const guessRest = 32

func (g *guesses) worthIt() bool { return g.rest.Load() <= 0 || g.rest.Add(-1) < 0 }

func (g *guesses) was(right bool) {
	if !right {
		g.rest.Store(guessRest)
	}
}

// rangeAt reads the snapshot at r, which is closed, or settled on the members that hold the range, with the events of own on top: what a transaction at r+1 wrote before
// this read. The request's own revision is ignored; the response has no header.
func (c *core) rangeAt(ctx context.Context, f *feed, req *pb.RangeRequest, r int64, own []*mergedlog.Event) (*pb.RangeResponse, error) {
	shown, answered := snapshot.Levels(req)
	resp, err := c.pairsAt(ctx, f, req, r, own, shown, answered)
	if err == nil && req.KeysOnly {
		snapshot.Strip(resp.Kvs, req.SortTarget)
	}
	return resp, err
}

// pairsAt is rangeAt for a caller that says what it needs: pairs have at least what answered says, and none of KeysOnly is done.
func (c *core) pairsAt(
	ctx context.Context, f *feed, req *pb.RangeRequest, r int64, own []*mergedlog.Event, shown, answered snapshot.Level,
) (*pb.RangeResponse, error) {
	key, end, empty := req.Key, req.RangeEnd, false
	if len(end) > 0 {
		key, end, empty = validate.Clip(key, end)
	}
	if empty {
		return snapshot.Select(req, nil)
	}
	if len(end) == 0 && !req.CountOnly && (answered == snapshot.Values || !c.cache.Has(key)) {
		shown, answered = snapshot.Values, snapshot.Values // to ask twice would cost more than the value
	}
	native := rangeCopy(req, key, end)
	b := c.newBases(f, c.ring.MembersOf(key, end), r, shown, answered)
	for try := 1; ; try++ {
		resp, err := b.read(ctx, native, own)
		if !errors.Is(err, rpctypes.ErrGRPCCompacted) || try == behindTries || !c.behind(ctx, f, b.members, r) {
			return resp, f.orEnd(err)
		}
	}
}

// behindTries bounds the attempts of a read that compactions by other processes overtake.
const behindTries = 3

// behind reports whether a read at r that a member refused as compacted is one that the meta cluster still allows. Revisions of the
// member that hold no stamp, like those that change leases and fences, say nothing of r: another process may have compacted
// up to one of them that this one had not seen. Then it has by the time this returns.
func (c *core) behind(ctx context.Context, f *feed, members []int, r int64) bool {
	ctx, cancel := c.whileOpen(ctx)
	defer cancel()
	rec, err := c.members[0].readRecords(ctx)
	if err != nil || r < rec.compacted {
		return false
	}
	for _, i := range members {
		rev, err := c.members[i].present(ctx)
		if err != nil || f.log.WaitReached(ctx, i, rev) != nil {
			return false
		}
	}
	return true
}

// atOnce does f for 0 to n-1 concurrently; the first error ends it.
func atOnce(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	if n == 1 {
		return f(ctx, 0)
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return f(gctx, i) })
	}
	return g.Wait()
}

func rangeCopy(req *pb.RangeRequest, key, end []byte) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: key, RangeEnd: end, Limit: req.Limit, SortOrder: req.SortOrder, SortTarget: req.SortTarget, KeysOnly: req.KeysOnly, CountOnly: req.CountOnly,
		MinModRevision: req.MinModRevision, MaxModRevision: req.MaxModRevision, MinCreateRevision: req.MinCreateRevision, MaxCreateRevision: req.MaxCreateRevision,
	}
}

// awayRetry is how long a read of a member that is away rests before it asks again.
const awayRetry = 50 * time.Millisecond

// whenBack repeats a read while its member does not answer: it is down, has no leader or cannot be reached, and clientv3 gave
// up asking. Reads wait for it as long as their caller does, as writes do.
func whenBack[T any](ctx context.Context, c *core, read func() (T, error)) (T, error) {
	for {
		resp, err := read()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded:
			if c.ctx.Err() == nil && pause(ctx, awayRetry) == nil {
				continue
			}
		}
		return resp, err
	}
}

// snapshot finds where a snapshot at r is on each member: in memory, or in the members' histories. What is not closed is settled
// on the members.
func (f *feed) snapshot(ctx context.Context, r int64, members []int, key, end []byte) ([]mergedlog.MemberSnapshot, error) {
	read := f.log.Snapshot
	if r > f.log.Closed() {
		read = f.log.SettledSnapshot
	}
	snaps, err := read(r, members, key, end)
	if errors.Is(err, mergedlog.ErrEvicted) {
		if err := f.log.WaitClosed(ctx, r); err != nil {
			return nil, err
		}
		ctx, cancel := f.c.whileOpen(ctx)
		defer cancel()
		return f.history.Snapshot(ctx, r, members, key, end)
	}
	return snaps, err
}

// current runs read at a present revision, again when compaction by another process overtook it: this process was behind.
func (c *core) current(ctx context.Context, read func(f *feed) error) error {
	for {
		f, err := c.feedFor(ctx)
		if err != nil {
			return err
		}
		err = read(f)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, rpctypes.ErrGRPCCompacted) && !errors.As(err, new(askedError)):
			err = c.catchUp(ctx, f)
		}
		switch {
		case err == nil:
		case !f.overtook(err):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
