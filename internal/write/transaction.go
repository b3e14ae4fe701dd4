package write

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// errReconsider ends an operation that turned out, once its keys' state was known, not to change anything: it needs no stamp.
var errReconsider = errors.New("nothing to write in the known state")

// transaction is one on its way to its member. Its lane builds it while the caller waits, never both at once.
type transaction struct {
	c      *Writer
	plan   *translate.Plan
	member *member.Member

	read  *member.Reading // what was read for this transaction; nil: the state cache must do
	run   *translate.Run  // as built last
	built []builtKey      // the states it was evaluated and built on, in the order of the plan's keys
	stale bool            // the last attempt was built on a state that no longer held

	losses int // attempts that met other writers, locks or fences
}

type builtKey struct {
	known bool // the state has been asked for
	state translate.State
}

// attempt tries to land the transaction once. done: resp is the answer.
func (w *transaction) attempt(ctx context.Context) (resp *pb.TxnResponse, done bool, err error) {
	if _, err := w.c.Feeds.Wait(ctx); err != nil {
		return nil, false, err
	}
	op, ready, err := w.prepare(ctx)
	if err != nil {
		return nil, false, err
	}
	if !ready {
		return w.unstamped(ctx)
	}
	r, err := w.c.Commit.Do(ctx, w.member.Index, op)
	switch {
	case errors.Is(err, errReconsider):
		return w.unstamped(ctx)
	case err != nil:
		return nil, false, err
	case !r.Outcome.Landed:
		if !r.Outcome.Together { // that is another operation's
			w.losses++
		}
		return nil, false, nil
	}
	if len(w.plan.Deleted) > 0 {
		w.c.DropEntriesBehind(r.Stamp) //nolint:contextcheck // it goes on without the caller
	}
	resp, err = w.answer(ctx, r)
	return resp, true, err
}

// prepare makes the operation for the lane. It reports false when the known state says that nothing would be written.
func (w *transaction) prepare(ctx context.Context) (*commit.Op, bool, error) {
	op := &commit.Op{Keys: w.plan.Keys, Size: w.plan.Size(), Learn: w.learn}
	if w.plan.Exclusive() {
		if err := w.lookAtLeases(ctx); err != nil {
			return nil, false, err
		}
		rd, err := member.WhenBack(ctx, w.c.Life, func() (*member.Reading, error) { return w.c.Reads.ReadState(ctx, w.member, w.plan) })
		if err != nil {
			return nil, false, err
		}
		w.read = rd
		op.Exclude = w.exclude
		return w.judged(op)
	}
	op.Build = w.build
	if err := w.lookAtLeases(ctx); err != nil {
		return nil, false, err
	}
	missing := w.missing()
	if w.tooMany(missing) {
		return nil, false, rpctypes.ErrGRPCTooManyOps
	}
	if len(missing) == 0 {
		if w.plan.Blind() && len(w.plan.Leases) == 0 {
			return op, true, nil
		}
		return w.judged(op)
	}
	linearizable := w.stale
	if !w.plan.AlwaysWrites() || !w.leasesLive() { // it takes a stamp when it is known to need one
		rd, err := member.WhenBack(ctx, w.c.Life, func() (*member.Reading, error) { return w.readKeys(ctx, missing, linearizable) })
		if err != nil {
			return nil, false, err
		}
		w.keep(rd)
		return w.judged(op)
	}
	// The read runs beside the stamp: the lane builds the operation when both are there.
	ready := make(chan struct{})
	op.Ready = ready
	if !w.c.Life.Spawn(func() { //nolint:contextcheck // the operation may outlive its caller
		defer close(ready)
		w.fetch(w.c.Life.Context(), missing, linearizable) // not the caller's context: the operation may outlive it
	}) {
		return nil, false, w.c.Life.Cause()
	}
	return op, true, nil
}

// judged is what prepare returns once the state is known. It fails with translate.ErrRounds before a stamp is taken.
func (w *transaction) judged(op *commit.Op) (*commit.Op, bool, error) {
	writes := w.wouldWrite()
	if writes && w.run.Rounds() {
		return nil, false, translate.ErrRounds
	}
	return op, writes, nil
}

// wouldWrite evaluates the transaction on what is known. An error of etcd's (a put that keeps the value of an absent
// key) must be decided on a snapshot, like everything that writes nothing.
func (w *transaction) wouldWrite() bool {
	if w.built == nil {
		w.built = make([]builtKey, len(w.plan.Keys))
	}
	clear(w.built)
	run, err := w.plan.Evaluate(w)
	if err != nil || !run.Writes(w) || !w.readable(run) || !w.leasesOf(run) {
		return false
	}
	w.run = run
	if w.read != nil && w.plan.Exclusive() {
		return run.WritesBeside(w.read.EmptyRanges, w)
	}
	return true
}

// readable reports whether the revisions that a run's reads name are known to be there. Those that are not must be asked
// for before anything lands, which a snapshot does.
func (w *transaction) readable(run *translate.Run) bool {
	for _, s := range run.Steps {
		if s.Range != nil && w.c.Reads.Names(s.Range) && (s.Range.Revision < w.c.Feeds.Compacted.Load() || s.Range.Revision > w.c.Feeds.Closed()) {
			return false
		}
	}
	return true
}

func (w *transaction) build(stamp int64, mark int) (*translate.Guarded, error) {
	if !w.wouldWrite() {
		return nil, errReconsider
	}
	return w.plan.Guard(w.run, w.state, stamp, mark, w.c.Ring.Slot)
}

func (w *transaction) exclude(stamp, epoch int64) (*translate.Exclusive, error) {
	if !w.wouldWrite() {
		return nil, errReconsider
	}
	return w.plan.Exclude(w.run, w.state, w.read.Rev, stamp, epoch)
}

// unstamped answers from a snapshot if nothing is written there either. Otherwise what this process knew was outdated.
func (w *transaction) unstamped(ctx context.Context) (*pb.TxnResponse, bool, error) {
	resp, writes, err := w.c.Reads.AnswerUnstamped(ctx, w.plan, false)
	if err != nil || !writes {
		return resp, true, err
	}
	if w.tooMany(w.plan.Keys) {
		return nil, false, rpctypes.ErrGRPCTooManyOps
	}
	if !w.plan.Exclusive() {
		w.fetch(ctx, w.plan.Keys, true)
	}
	return nil, false, nil
}

// answer builds the response of a landed transaction.
func (w *transaction) answer(ctx context.Context, r commit.Result) (*pb.TxnResponse, error) {
	results := r.Outcome.Results
	if w.run.Reads || r.Settled {
		var err error
		if results, err = w.c.Reads.Replay(ctx, w.run, r.Stamp); err != nil {
			return nil, err
		}
	}
	return w.c.Reads.Landed(w.plan, w.run, r.Stamp, results), nil
}
