package crosstxn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Run runs a transaction under locks. It returns etcd's answer or error; ctx's error when that ends first; why the process is over; or
// commit.ErrUnknown if it cannot be found out whether the transaction happened. When ctx ends, the transaction goes on behind the
// caller's back, but not further than it must: it may still happen if it was about to be decided.
func (r *Runner) Run(ctx context.Context, plan *translate.Plan) (*pb.TxnResponse, error) {
	x := r.newCrossing(plan)
	type answer struct {
		resp *pb.TxnResponse
		err  error
	}
	answered := make(chan answer, 1)
	if !r.cfg.Life.Spawn(func() {
		resp, err := x.run(ctx)
		answered <- answer{resp, err}
	}) {
		return nil, r.cfg.Life.Cause()
	}
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Runner) newCrossing(plan *translate.Plan) *crossing {
	x := &crossing{runner: r, plan: plan, shares: plan.Shares(r.cfg.Ring, r.cfg.MaxTxnOps), patience: feed.MinPatience}
	for _, s := range x.shares {
		x.claims = append(x.claims, latch.Claim{Member: s.Member, Slots: s.Slots})
	}
	return x
}

// crossing is one transaction across members. Its methods run on one goroutine, but for the locking of its shares.
type crossing struct {
	runner   *Runner
	plan     *translate.Plan
	shares   []translate.Share
	claims   []latch.Claim
	patience time.Duration

	// Of the attempt under way.
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
	ctx, cancel := x.runner.cfg.Life.Within(ctx)
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
		if err := x.runner.cfg.Members[s.Member].AwaitBack(ctx, x.runner.cfg.Timeout); err != nil {
			return err
		}
	}
	x.held, err = x.runner.latches.Acquire(ctx, x.claims)
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
	v := cacheView{x.runner, new(bool)}
	run, err := x.plan.Evaluate(v)
	return err == nil && !run.Writes(v) && !*v.unknown
}

// cacheView is what the state cache knows of single keys.
type cacheView struct {
	runner  *Runner
	unknown *bool // set when a key was asked for that is not in the cache
}

// Get implements translate.View.
func (v cacheView) Get(key []byte) *mvccpb.KeyValue {
	s, ok := v.runner.cfg.Cache.Get(key)
	*v.unknown = *v.unknown || !ok
	return member.Uncached(key, s).KV
}

// Range implements translate.View.
func (v cacheView) Range(translate.Range) []*mvccpb.KeyValue { return nil }

// attempt locks, evaluates and decides once. decided: the latches are released with the transaction's parts.
func (x *crossing) attempt(ctx context.Context) (resp *pb.TxnResponse, decided bool, err error) {
	f, err := x.runner.cfg.Feeds.Wait(ctx)
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
		if err := x.runner.cfg.Reads.ShowHeads(ctx, x.runner.cfg.Members[x.shares[i].Member], l.Bare, l.MemberRev); err != nil {
			return nil, false, err
		}
	}
	locked := x.plan.NewCross(x.runner.cfg.Ring, x.shares, x.locked)
	run, writes, err := locked.Run()
	if err != nil || !writes {
		return x.stepAside(ctx)
	}
	if err := x.runner.cfg.Reads.CheckReads(ctx, f, run); err != nil {
		if f.Overtook(err) {
			err = errAgain
		}
		return nil, false, err
	}
	if kept := locked.Unheld(run); len(kept) > 0 {
		x.addLeases(kept)
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
	x.finish(d) //nolint:contextcheck // what is cleaned up is the process's
	if len(x.plan.Deleted) > 0 {
		x.runner.cfg.OnRangeDelete(d.Stamp)
	}
	resp, err = x.answer(ctx, run, d)
	return resp, true, err
}

func (x *crossing) begin() {
	x.holder = record.Holder{ID: record.NewTxnID(), Primary: x.runner.cfg.Ring.Number(x.primary()), Patience: x.patience}
	x.epoch = x.runner.cfg.Clock.Epoch()
	x.locked = make([]*translate.Locked, len(x.shares))
	for i := range x.shares {
		x.shares[i].Apart = x.runner.apart.Load()
	}
	x.runner.open.Store(x.holder.ID, struct{}{})
}

// primary is the member that the decision is on.
func (x *crossing) primary() int { return x.shares[0].Member }

// addLeases makes the following attempts hold these leases as well, on every share.
func (x *crossing) addLeases(leases []int64) {
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
	resp, writes, err := x.runner.cfg.Reads.AnswerUnstamped(ctx, x.plan, false)
	if err == nil && writes {
		err = errAgain // it was a moment ago
	}
	return resp, err
}
