package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

const (
	// minPatience is how long others let a transaction's locks alone at first. Usual transactions hold them for less.
	minPatience = 100 * time.Millisecond
	// maxPatience bounds what a transaction asks for after its locks were taken from it.
	maxPatience = 2 * time.Second
	// maxLosses is how often an operation of one member may meet others before it locks its slots.
	maxLosses = 3
)

// cross runs a transaction under locks (section 12): one whose keys lie on several members, that is too long for one
// request, that puts and deletes a key, or that has met others too often. It goes on when ctx ends, but not past what it must finish.
func (c *core) cross(ctx context.Context, plan *translate.Plan) (*pb.TxnResponse, error) {
	x := &crossing{c: c, plan: plan, shares: plan.Shares(c.ring, c.cfg.MemberTxnOps), patience: minPatience}
	for _, s := range x.shares {
		x.claims = append(x.claims, latch.Claim{Member: s.Member, Slots: s.Slots})
	}
	type answer struct {
		resp *pb.TxnResponse
		err  error
	}
	answered := make(chan answer, 1)
	if !c.spawn(func() {
		resp, err := x.run(ctx)
		answered <- answer{resp, err}
	}) {
		return nil, ErrClosed
	}
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// crossing is one transaction across members. Its methods run on one goroutine, but for the locking of its shares.
type crossing struct {
	c        *core
	plan     *translate.Plan
	shares   []translate.Share
	claims   []latch.Claim
	patience time.Duration

	// Of the present attempt.
	holder record.Holder
	epoch  int64
	locked []*translate.Locked // nil: not known to be locked
	held   *latch.Held         // nil: the latches have to be taken
	rest   backoff.Backoff     // after members were away
}

var (
	// errAgain makes a crossing start over.
	errAgain = errors.New("the transaction starts over")
	// errAway makes it start over when a member that was away is back.
	errAway = fmt.Errorf("%w: a member is away", errAgain)
)

func (x *crossing) run(ctx context.Context) (*pb.TxnResponse, error) {
	ctx, cancel := x.c.whileOpen(ctx)
	defer cancel()
	if x.foreseen() {
		if resp, err := x.unstamped(ctx); !errors.Is(err, errAgain) {
			return resp, err
		}
	}
	defer x.unlatch()
	for {
		if err := x.latch(ctx); err != nil {
			return nil, err
		}
		resp, decided, err := x.attempt(ctx)
		switch {
		case decided || !errors.Is(err, errAgain):
			return resp, err
		case errors.Is(err, errAway):
			x.unlatch()
			if !x.rest.Wait(ctx) {
				return nil, ctx.Err()
			}
		}
	}
}

// latch waits for the transaction's latches, unless it still has them; and before that, holding nothing, for the members that
// were away when somebody asked them last.
func (x *crossing) latch(ctx context.Context) (err error) {
	if x.held != nil {
		return ctx.Err()
	}
	for _, s := range x.shares {
		if err := x.c.members[s.Member].awaitBack(ctx, x.c.cfg.MemberTimeout); err != nil {
			return err
		}
	}
	x.held, err = x.c.latches.Acquire(ctx, x.claims)
	return err
}

// unlatch lets the next ones have the latches.
func (x *crossing) unlatch() {
	x.held.Release()
	x.held = nil
}

// foreseen reports whether the transaction would change nothing, as far as this process knows: its compares fail. Then it
// need not lock anything to find out.
func (x *crossing) foreseen() bool {
	if x.plan.NeedValue || x.plan.Exclusive() {
		return false
	}
	v := cacheView{x.c, new(bool)}
	run, err := x.plan.Evaluate(v)
	return err == nil && !run.Writes(v) && !*v.unknown
}

// cacheView is what the state cache knows of single keys.
type cacheView struct {
	c       *core
	unknown *bool // set when a key was asked for that is not in the cache
}

// Get implements translate.View.
func (v cacheView) Get(key []byte) *mvccpb.KeyValue {
	s, ok := v.c.cache.Get(key)
	*v.unknown = *v.unknown || !ok
	return uncached(key, s).KV
}

// Range implements translate.View.
func (v cacheView) Range(translate.Range) []*mvccpb.KeyValue { return nil }

// attempt locks, evaluates and decides once. decided: the latches are released with the transaction's parts.
func (x *crossing) attempt(ctx context.Context) (resp *pb.TxnResponse, decided bool, err error) {
	f, err := x.c.feedFor(ctx)
	if err != nil {
		return nil, false, err
	}
	x.begin()
	keep := false
	defer func() { //nolint:contextcheck // locks are given back whatever ends the attempt
		if !keep {
			x.abandon()
		}
	}()
	if err := x.lock(ctx, f); err != nil {
		return nil, false, err
	}
	for i, l := range x.locked {
		if err := x.c.showHeads(ctx, x.c.members[x.shares[i].Member], l.Bare, l.MemberRev); err != nil {
			return nil, false, err
		}
	}
	locked := x.plan.NewCross(x.c.ring, x.shares, x.locked)
	run, writes, err := locked.Run()
	if err != nil || !writes {
		return x.stepAside(ctx)
	}
	if err := x.c.checkReads(ctx, f, run); err != nil {
		if f.overtook(err) {
			err = errAgain
		}
		return nil, false, err
	}
	if kept := locked.Unheld(run); len(kept) > 0 {
		x.hold(kept)
		return nil, false, errAgain
	}
	if locked.Attaches(run) != nil { // what is left of the lease has to go first
		return x.stepAside(ctx)
	}
	d, err := x.decide(locked, run) //nolint:contextcheck // the outcome has to be known whoever has gone
	if err != nil {
		return nil, false, err
	}
	keep = true
	x.finish(d)
	if len(x.plan.Deleted) > 0 {
		x.c.dropEntriesBehind(d.Stamp)
	}
	resp, err = x.answer(ctx, run, d)
	return resp, true, err
}

func (x *crossing) begin() {
	x.holder = record.Holder{ID: record.NewTxnID(), Primary: x.shares[0].Member, Patience: x.patience}
	x.epoch = x.c.clock.Epoch()
	x.locked = make([]*translate.Locked, len(x.shares))
	x.c.crossings.Store(x.holder.ID, struct{}{})
}

// hold has the next attempts hold leases too, whatever keys they find.
func (x *crossing) hold(leases []int64) {
	for i := range x.shares {
		x.shares[i].Leases = append(slices.Clip(x.shares[i].Leases), leases...)
	}
}

// stepAside gives everything back, the latches included, and answers from a snapshot: that may have to wait for members that the
// transaction does not touch, or to delete the keys of a lease that has ended.
func (x *crossing) stepAside(ctx context.Context) (*pb.TxnResponse, bool, error) {
	x.abandon() //nolint:contextcheck // locks are given back whatever ends the attempt
	x.unlatch()
	resp, err := x.unstamped(ctx)
	return resp, false, err
}

// unstamped answers a transaction that changes nothing, from a snapshot, with etcd's error if it is one.
func (x *crossing) unstamped(ctx context.Context) (*pb.TxnResponse, error) {
	resp, writes, err := x.c.answerUnstamped(ctx, x.plan, false)
	if err == nil && writes {
		err = errAgain // it was a moment ago
	}
	return resp, err
}

// lock locks the primary's share, and then the others. The order matters: who finds a lock, and nothing of it on the primary,
// knows that it cannot be decided any more. If somebody else holds something, all is given back before it is waited for.
func (x *crossing) lock(ctx context.Context, f *feed) error {
	err := x.lockShare(ctx, f, 0)
	if err == nil {
		var others errgroup.Group // none is cancelled: what became of a request would be unknown
		if slices.ContainsFunc(x.shares, func(s translate.Share) bool { return s.Whole }) {
			others.SetLimit(1) // see claim
		}
		for i := 1; i < len(x.shares); i++ {
			others.Go(func() error { return x.lockShare(ctx, f, i) })
		}
		err = others.Wait()
	}
	held, ok := errors.AsType[*heldError](err)
	if !ok {
		return err
	}
	x.giveBack() //nolint:contextcheck // as above
	x.c.metrics.lockWaits.Inc()
	return x.wait(ctx, f, held)
}

// heldError says that a share is held by somebody else, at the member's revision rev.
type heldError struct {
	share *translate.Share
	rev   int64
}

func (e *heldError) Error() string { return "somebody else holds a lock" }

// wait waits until what was held is free; the transaction starts over then.
func (x *crossing) wait(ctx context.Context, f *feed, held *heldError) error {
	ctx, cancel := context.WithTimeout(ctx, 2*maxPatience)
	defer cancel()
	var err error
	if s := held.share; s.Whole {
		err = f.log.WaitAllUnlocked(ctx, s.Member, held.rev)
	} else {
		err = f.log.WaitUnlocked(ctx, s.Member, held.rev, s.Slots...)
	}
	switch {
	case ctx.Err() != nil:
		return errAway // or the one who holds it cannot reach it
	case err != nil && !f.over():
		return err
	}
	return errAgain // also when compaction has overtaken the log: there will be another one
}

// lockShare locks one share. It fails with a *heldError if somebody else has some of it.
func (x *crossing) lockShare(ctx context.Context, f *feed, i int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s := &x.shares[i]
	l, err := x.ask(s, s.Lock(x.epoch, x.holder), s.DecodeLock) //nolint:contextcheck // as above
	if err == nil && l.Refused && s.Whole && !l.Held {
		l, err = x.claim(ctx, f, i)
	}
	if err != nil {
		return err
	}
	if l.Refused {
		return &heldError{s, l.MemberRev}
	}
	x.locked[i] = l
	return nil
}

// claim locks a whole member of which slots are locked, and waits for them. Only such transactions wait while they hold
// something, and they lock in the order of the members, so nobody waits in a circle.
func (x *crossing) claim(ctx context.Context, f *feed, i int) (*translate.Locked, error) {
	s := &x.shares[i]
	l, err := x.ask(s, s.Claim(x.epoch, x.holder), s.DecodeClaim) //nolint:contextcheck // as above
	for err == nil && !l.Refused {
		x.locked[i] = l
		if err := f.log.WaitSlotsUnlocked(ctx, s.Member, l.MemberRev); err != nil {
			if f.over() {
				err = errAgain
			}
			return nil, err
		}
		read, err := x.ask(s, s.Read(x.epoch, x.holder), s.DecodeRead) //nolint:contextcheck // as above
		if err != nil || !read.Refused {
			return read, err
		}
		if !read.Held || read.Holder.ID != x.holder.ID {
			x.lost()
			return nil, errAgain
		}
		l.MemberRev = read.MemberRev
	}
	return l, err
}

// ask sends a request for locks. If it cannot be known what became of it, the locks are left to the keepers.
func (x *crossing) ask(s *translate.Share, req *pb.TxnRequest, decode func(epoch int64, resp *pb.TxnResponse) (*translate.Locked, error)) (*translate.Locked, error) {
	ctx, cancel := x.c.lingering(x.c.cfg.MemberTimeout)
	defer cancel()
	m := x.c.members[s.Member]
	resp, err := m.send(ctx, req)
	if err != nil {
		if commit.Definite(err) || commit.OutOfSpace(err) { // nothing that comes back by itself
			return nil, err
		}
		m.away.Store(true)
		return nil, errAway
	}
	l, err := decode(x.epoch, resp)
	if errors.As(err, new(*translate.WrongEpochError)) {
		if _, err := x.c.clock.Sync(x.c.ctx); err != nil {
			return nil, err
		}
		return nil, errAgain
	}
	return l, err
}

// lost makes others more patient in the next attempt: they took the transaction for that of a writer that had gone.
func (x *crossing) lost() { x.patience = min(2*x.patience, maxPatience) }

// abandon ends an attempt that was not decided.
func (x *crossing) abandon() {
	x.giveBack()
	x.c.crossings.Delete(x.holder.ID)
}

// giveBack unlocks what the attempt has locked. What it cannot unlock now the keepers will find.
func (x *crossing) giveBack() {
	ctx, cancel := x.c.lingering(x.c.cfg.MemberTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, l := range x.locked {
		if l == nil {
			continue
		}
		x.locked[i] = nil
		s := &x.shares[i]
		wg.Go(func() { _, _ = x.c.members[s.Member].send(ctx, s.Unlock(x.holder, l)) })
	}
	wg.Wait()
}

// decide lands the primary's part, with the decision that makes the others sure.
func (x *crossing) decide(locked *translate.Cross, run *translate.Run) (*translate.Decided, error) {
	for {
		s, err := x.c.commit.Take(x.c.ctx)
		if err != nil {
			return nil, err
		}
		d, err := locked.Decide(run, x.holder, s.Rev, s.Epoch)
		if err != nil {
			x.c.commit.Surrender(s)
			return nil, err
		}
		err = x.send(d, s)
		switch {
		case err == nil:
			return d, nil
		case errors.Is(err, translate.ErrStale):
		case errors.As(err, new(*translate.WrongEpochError)):
			if _, err := x.c.clock.Sync(x.c.ctx); err != nil {
				return nil, err
			}
		case errors.Is(err, translate.ErrLost):
			x.lost()
			return nil, errAgain
		default:
			return nil, err
		}
	}
}

// send sends the decision, and finds out what became of it.
func (x *crossing) send(d *translate.Decided, s commit.Stamp) error {
	primary := x.holder.Primary
	x.c.doubts.Track(primary, s.Epoch, mergedlog.Sent{Stamp: s.Rev, Txn: d.Txn})
	defer x.c.doubts.Untrack(primary, s.Epoch, s.Rev)
	ctx, cancel := x.c.lingering(x.c.cfg.MemberTimeout)
	resp, err := x.c.members[primary].send(ctx, d.Txn)
	cancel()
	if err == nil {
		x.c.commit.Landed(s)
		return d.Decode(resp)
	}
	out, err := x.c.commit.Settle(primary, s, err)
	switch {
	case errors.Is(err, commit.ErrUnknown):
		x.c.commit.Landed(s)
		x.locked = nil // nobody knows whether it is decided: the keepers find out
		return err
	case err != nil:
		x.c.commit.Surrender(s)
		return err
	}
	x.c.commit.Landed(s)
	switch {
	case out.Kind == mergedlog.Landed:
		return nil
	case out.Kind == mergedlog.Dead, out.Reason == record.Fenced:
		return translate.ErrStale
	}
	return translate.ErrLost
}

// finish has the other parts applied while the writer is answered already.
func (x *crossing) finish(d *translate.Decided) {
	x.c.metrics.crossings.Inc()
	holder, held := x.holder, x.held
	x.held = nil
	over := func(member int) {
		held.ReleaseClaim(slices.IndexFunc(x.claims, func(c latch.Claim) bool { return c.Member == member }))
	}
	if !slices.ContainsFunc(d.Parts, func(p record.DecidedPart) bool { return p.Member == holder.Primary }) {
		over(holder.Primary) // its part has landed
	}
	apply := func() {
		if len(d.Parts) > 0 && x.c.applyAll(x.c.ctx, d.Parts, over) == nil {
			x.c.sweeper.add(holder)
		}
		held.Release()
		x.c.crossings.Delete(holder.ID)
	}
	if len(d.Parts) == 0 || !x.c.spawn(apply) {
		apply()
	}
}

func (x *crossing) answer(ctx context.Context, run *translate.Run, d *translate.Decided) (*pb.TxnResponse, error) {
	results := d.Results
	if run.Reads || run.TellsPrevious() {
		var err error
		if results, err = x.c.replay(ctx, run, d.Stamp); err != nil {
			return nil, err
		}
	}
	return x.c.landed(x.plan, run, d.Stamp, results), nil
}
