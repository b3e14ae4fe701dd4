package write

import (
	"context"
	"errors"
	"time"

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
	writer *Writer
	plan   *translate.Plan
	member *member.Member

	read  *member.Reading // what was read for this transaction; nil: the state cache must do
	run   *translate.Run  // as built last
	built []builtKey      // the states it was evaluated and built on, in the order of the plan's keys
	stale bool            // the last attempt was built on a state that no longer held

	losses  int          // attempts that met other writers, locks or fences
	refused commit.Stamp // of the last attempt; zero: there was none, or it had none
}

type builtKey struct {
	known bool // the state has been asked for
	state translate.State
}

// attempt tries to land the transaction once. done: resp is the answer.
func (t *transaction) attempt(ctx context.Context) (resp *pb.TxnResponse, done bool, err error) {
	if _, err := t.writer.cfg.Feeds.Wait(ctx); err != nil {
		return nil, false, err
	}
	slots := t.contended()
	if err := t.writer.rivals.await(ctx, slots); err != nil {
		return nil, false, err
	}
	op, ready, err := t.prepare(ctx)
	if err != nil {
		return nil, false, err
	}
	if !ready {
		return t.unstamped(ctx)
	}
	began := time.Now()
	r, err := t.writer.cfg.Commit.Do(ctx, t.member.Index, op)
	switch {
	case errors.Is(err, errReconsider):
		return t.unstamped(ctx)
	case err != nil:
		return nil, false, err
	case !r.Outcome.Landed:
		if !r.Outcome.Together { // that is another operation's
			t.losses++
			if !r.Outcome.Fenced {
				t.writer.rivals.lost(slots, time.Since(began))
			}
		}
		t.refused = commit.Stamp{Rev: r.Stamp, Epoch: r.Epoch}
		return nil, false, nil
	}
	t.writer.rivals.landed(slots, time.Since(began))
	if len(t.plan.Deleted) > 0 {
		t.writer.DropEntriesBehind(r.Stamp) //nolint:contextcheck // it goes on without the caller
	}
	resp, err = t.answer(ctx, r)
	return resp, true, err
}

// contended are the slots where others may be in the transaction's way.
func (t *transaction) contended() []int {
	if t.plan.Blind() {
		return nil
	}
	slots := make([]int, len(t.plan.Keys))
	for i, k := range t.plan.Keys {
		slots[i] = t.writer.cfg.Ring.Slot(k)
	}
	return slots
}

// prepare makes the operation for the lane. It reports false when the known state says that nothing would be written.
func (t *transaction) prepare(ctx context.Context) (*commit.Op, bool, error) {
	op := &commit.Op{Keys: t.plan.Keys, Size: t.plan.Size(), Learn: t.learn}
	if t.plan.Exclusive() {
		if err := t.lookAtLeases(ctx); err != nil {
			return nil, false, err
		}
		rd, err := member.WhenBack(ctx, t.writer.cfg.Life, func() (*member.Reading, error) { return t.writer.cfg.Reads.ReadState(ctx, t.member, t.plan) })
		if err != nil {
			return nil, false, err
		}
		t.read = rd
		op.Exclude = t.exclude
		return t.judged(op)
	}
	op.Build = t.build
	if err := t.lookAtLeases(ctx); err != nil {
		return nil, false, err
	}
	missing := t.missing()
	if t.tooMany(missing) {
		return nil, false, rpctypes.ErrGRPCTooManyOps
	}
	if len(missing) == 0 {
		if t.plan.Blind() && len(t.plan.Leases) == 0 {
			return op, true, nil
		}
		return t.judged(op)
	}
	if t.stale || !t.plan.AlwaysWrites() || !t.leasesLive() { // it takes a stamp when it is known to need one
		rd, err := member.WhenBack(ctx, t.writer.cfg.Life, func() (*member.Reading, error) { return t.readKeys(ctx, missing, t.stale) })
		if err != nil {
			return nil, false, err
		}
		t.keep(rd)
		return t.judged(op)
	}
	// The read runs beside the stamp: the lane builds the operation when both are there.
	op.Missing = missing
	op.Know = func(rev int64, states []translate.State) {
		t.keep(&member.Reading{Rev: rev, Keys: missing, States: states})
	}
	return op, true, nil
}

// judged is what prepare returns once the state is known. It fails with translate.ErrRounds before a stamp is taken.
func (t *transaction) judged(op *commit.Op) (*commit.Op, bool, error) {
	writes := t.wouldWrite()
	if writes && t.run.Rounds() {
		return nil, false, translate.ErrRounds
	}
	return op, writes, nil
}

// wouldWrite evaluates the transaction on what is known. An error of etcd's (a put that keeps the value of an absent
// key) must be decided on a snapshot, like everything that writes nothing.
func (t *transaction) wouldWrite() bool {
	if t.built == nil {
		t.built = make([]builtKey, len(t.plan.Keys))
	}
	clear(t.built)
	run, err := t.plan.Evaluate(t)
	if err != nil || !run.Writes(t) || !t.readable(run) || !t.leasesOf(run) {
		return false
	}
	t.run = run
	if t.read != nil && t.plan.Exclusive() {
		return run.WritesBeside(t.read.EmptyRanges, t)
	}
	return true
}

// readable reports whether the revisions that a run's reads name are known to be there. Those that are not must be asked
// for before anything lands, which a snapshot does.
func (t *transaction) readable(run *translate.Run) bool {
	for _, s := range run.Steps {
		if s.Range != nil && t.writer.cfg.Reads.Names(s.Range) && (s.Range.Revision < t.writer.cfg.Feeds.Compacted.Load() || s.Range.Revision > t.writer.cfg.Feeds.Closed()) {
			return false
		}
	}
	return true
}

func (t *transaction) build(stamp int64, index int) (*translate.Guarded, error) {
	if !t.wouldWrite() {
		return nil, errReconsider
	}
	return t.plan.Guard(t.run, t.state, stamp, index, t.writer.cfg.Ring.Slot)
}

func (t *transaction) exclude(stamp, epoch int64) (*translate.Exclusive, error) {
	if !t.wouldWrite() {
		return nil, errReconsider
	}
	return t.plan.Exclude(t.run, t.state, t.read.Rev, stamp, epoch, t.writer.cfg.Feeds.Closed(), t.writer.cfg.Ring.Slot)
}

// unstamped answers from a snapshot if nothing is written there either. Otherwise what this process knew was outdated.
func (t *transaction) unstamped(ctx context.Context) (*pb.TxnResponse, bool, error) {
	var resp *pb.TxnResponse
	var writes bool
	var err error
	if at := t.refused; at != (commit.Stamp{}) {
		t.refused = commit.Stamp{} // if that is not enough, the next time looks further
		resp, writes, err = t.writer.cfg.Reads.AnswerRefused(ctx, t.plan, at)
	} else {
		resp, writes, err = t.writer.cfg.Reads.AnswerUnstamped(ctx, t.plan, false)
	}
	if err != nil || !writes {
		return resp, true, err
	}
	if t.tooMany(t.plan.Keys) {
		return nil, false, rpctypes.ErrGRPCTooManyOps
	}
	if !t.plan.Exclusive() {
		t.fetch(ctx, t.plan.Keys, true)
	}
	return nil, false, nil
}

// answer builds the response of a landed transaction.
func (t *transaction) answer(ctx context.Context, r commit.Result) (*pb.TxnResponse, error) {
	results := r.Outcome.Results
	if t.run.Reads || r.Settled {
		var err error
		if results, err = t.writer.cfg.Reads.Replay(ctx, t.run, r.Stamp); err != nil {
			return nil, err
		}
	}
	return t.writer.cfg.Reads.Landed(t.plan, t.run, r.Stamp, results), nil
}
