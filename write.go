package metaetcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// errReconsider ends an operation that turned out, once its keys' state was known, not to change anything: it needs no stamp.
var errReconsider = errors.New("nothing to write in the known state")

// write runs a validated transaction; a put or a delete is one of a single operation. What changes nothing is answered
// from a snapshot and takes no stamp, because etcd's revision would not move either.
func (c *core) write(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	plan := translate.NewPlan(req, c.ring)
	if !plan.Writes || len(plan.Members) == 0 {
		return c.readTxn(ctx, plan)
	}
	if len(plan.Members) > 1 {
		return c.cross(ctx, plan)
	}
	w := &writer{c: c, plan: plan, member: c.members[plan.Members[0]]}
	for w.losses < maxLosses {
		free, err := c.awaitUnlocked(ctx, w.member.index, plan.Exclusive(), plan.Keys...)
		if err != nil {
			return nil, err
		}
		if !free && plan.Exclusive() {
			break // there may never be a moment without locks, unless it claims the member
		}
		resp, done, err := w.attempt(ctx)
		if errors.Is(err, rpctypes.ErrGRPCTooManyOps) || errors.Is(err, translate.ErrRounds) || commit.TooLarge(err) && plan.LongKeys() {
			break
		}
		if done || err != nil {
			return resp, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return c.cross(ctx, plan)
}

// awaitUnlocked waits while transactions across members hold what an operation of one member needs, the keys' slots or the
// whole member: its stamp would be refused. It does not wait for ever, and reports false for what is not free then: that is for
// the operation to find out.
func (c *core) awaitUnlocked(ctx context.Context, member int, whole bool, keys ...[]byte) (free bool, err error) {
	f, err := c.feedFor(ctx)
	if err != nil || f.log.Locked() == 0 {
		return true, err
	}
	if whole {
		ctx, cancel := context.WithTimeout(ctx, minPatience)
		defer cancel()
		return f.log.WaitAllUnlocked(ctx, member, 0) == nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxPatience)
	defer cancel()
	slots := make([]int, len(keys))
	for i, k := range keys {
		slots[i] = c.ring.Slot(k)
	}
	return f.log.WaitUnlocked(ctx, member, 0, slots...) == nil, nil
}

// writer is one transaction on its way to its member. Its lane builds it while the caller waits, never both at once.
type writer struct {
	c      *core
	plan   *translate.Plan
	member *member

	read  *reading       // what was read for this transaction; nil: the state cache must do
	run   *translate.Run // as built last
	built []builtKey     // the states it was evaluated and built on, in the order of the plan's keys
	stale bool           // the last attempt was built on a state that no longer held

	losses int // attempts that met other writers, locks or fences
}

type builtKey struct {
	known bool // the state has been asked for
	state translate.State
}

// attempt tries to land the transaction once. done: resp is the answer.
func (w *writer) attempt(ctx context.Context) (resp *pb.TxnResponse, done bool, err error) {
	if _, err := w.c.feedFor(ctx); err != nil {
		return nil, false, err
	}
	op, ready, err := w.prepare(ctx)
	if err != nil {
		return nil, false, err
	}
	if !ready {
		return w.unstamped(ctx)
	}
	r, err := w.c.commit.Do(ctx, w.member.index, op)
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
		w.c.dropEntriesBehind(r.Stamp)
	}
	resp, err = w.answer(ctx, r)
	return resp, true, err
}

// prepare makes the operation for the lane. It reports false when the known state says that nothing would be written.
func (w *writer) prepare(ctx context.Context) (*commit.Op, bool, error) {
	op := &commit.Op{Keys: w.plan.Keys, Size: w.plan.Size(), Learn: w.learn}
	if w.plan.Exclusive() {
		if err := w.lookAtLeases(ctx); err != nil {
			return nil, false, err
		}
		rd, err := whenBack(ctx, w.c, func() (*reading, error) { return w.c.readState(ctx, w.member, w.plan) })
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
	if !w.plan.AlwaysWrites() { // it takes a stamp when it is known to need one
		rd, err := whenBack(ctx, w.c, func() (*reading, error) { return w.readKeys(ctx, missing, linearizable) })
		if err != nil {
			return nil, false, err
		}
		w.keep(rd)
		return w.judged(op)
	}
	// The read runs beside the stamp: the lane builds the operation when both are there.
	ready := make(chan struct{})
	op.Ready = ready
	if !w.c.spawn(func() {
		defer close(ready)
		w.fetch(w.c.ctx, missing, linearizable) // not the caller's context: the operation may outlive it
	}) {
		return nil, false, ErrClosed
	}
	return op, true, nil
}

// judged is what prepare returns once the state is known. It fails with translate.ErrRounds before a stamp is taken.
func (w *writer) judged(op *commit.Op) (*commit.Op, bool, error) {
	writes := w.wouldWrite()
	if writes && w.run.Rounds() {
		return nil, false, translate.ErrRounds
	}
	return op, writes, nil
}

// missing returns the keys whose state must be read first: unknown ones, unless the transaction itself demands that they
// are absent, which then is a guess that the guards check; with NeedValue, all.
func (w *writer) missing() [][]byte {
	if w.plan.NeedValue && (w.read == nil || w.stale) {
		return w.plan.Keys
	}
	var out [][]byte
	for _, k := range w.plan.Keys {
		if _, ok := w.known(k); !ok && !w.plan.DemandsAbsent(k) {
			out = append(out, k)
		}
	}
	return out
}

// tooMany reports whether keys are more than one request can read. Under locks they are read all the same.
func (w *writer) tooMany(keys [][]byte) bool { return len(keys) > w.c.cfg.MemberTxnOps }

// fetch reads keys' states into the cache. A failure leaves them unknown: they count as absent, and the guards refuse.
func (w *writer) fetch(ctx context.Context, keys [][]byte, linearizable bool) {
	if rd, err := w.readKeys(ctx, keys, linearizable); err == nil {
		w.keep(rd)
	}
}

func (w *writer) readKeys(ctx context.Context, keys [][]byte, linearizable bool) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, w.c.cfg.MemberTimeout)
	defer cancel()
	return w.member.readKeys(ctx, keys, linearizable)
}

// keep takes what was read of keys.
func (w *writer) keep(rd *reading) {
	for i, k := range rd.keys {
		w.c.cache.Learn(k, cached(rd.states[i], rd.rev))
	}
	if w.plan.NeedValue {
		w.read = rd
	}
}

// known returns a key's state as this process knows it.
func (w *writer) known(key []byte) (translate.State, bool) {
	s, ok := w.c.cache.Get(key)
	if w.read != nil {
		if r, at, found := w.read.state(key); found && (!ok || at >= s.NativeMod) {
			return r, true
		}
	}
	if !ok || w.plan.NeedValue { // the cache has no values
		return translate.State{}, false
	}
	return uncached(key, s), true
}

// state returns a key's state as this attempt takes it. It is the same when the compares are evaluated and when their
// keys are pinned, though the cache may learn something newer in between.
func (w *writer) state(key []byte) translate.State {
	b := w.builtOf(key)
	if !b.known {
		b.known = true
		b.state, _ = w.known(key)
		if w.stale && w.plan.Blind() {
			b.state.NativeMod = 0 // others write the key: the cheaper pin was refused
		}
	}
	return b.state
}

// builtOf finds one of the plan's keys: all that the transaction touches.
func (w *writer) builtOf(key []byte) *builtKey {
	i, _ := slices.BinarySearchFunc(w.plan.Keys, key, bytes.Compare)
	return &w.built[i]
}

// Get and Range make the writer the view that its transaction is evaluated on.
func (w *writer) Get(key []byte) *mvccpb.KeyValue { return w.state(key).KV }

// Range implements translate.View.
func (w *writer) Range(r translate.Range) []*mvccpb.KeyValue { return w.read.ranges[r.String()] }

// wouldWrite evaluates the transaction on what is known. An error of etcd's (a put that keeps the value of an absent
// key) must be decided on a snapshot, like everything that writes nothing.
func (w *writer) wouldWrite() bool {
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
		return run.WritesBeside(w.read.emptyRanges, w)
	}
	return true
}

// readable reports whether the revisions that a run's reads name are known to be there. Those that are not must be asked
// for before anything lands, which a snapshot does.
func (w *writer) readable(run *translate.Run) bool {
	for _, s := range run.Steps {
		if s.Range != nil && w.c.names(s.Range) && (s.Range.Revision < w.c.compacted.Load() || s.Range.Revision > w.c.closed()) {
			return false
		}
	}
	return true
}

func (w *writer) build(stamp int64, mark int) (*translate.Guarded, error) {
	if !w.wouldWrite() {
		return nil, errReconsider
	}
	return w.plan.Guard(w.run, w.state, stamp, mark, w.c.ring.Slot)
}

func (w *writer) exclude(stamp, epoch int64) (*translate.Exclusive, error) {
	if !w.wouldWrite() {
		return nil, errReconsider
	}
	return w.plan.Exclude(w.run, w.state, w.read.rev, stamp, epoch)
}

// learn keeps what the outcome tells of the keys' native states, before any other operation on them is built.
func (w *writer) learn(stamp int64, o translate.Outcome) {
	if o.Together || o.Fenced && !o.Landed {
		return // it says nothing of these keys
	}
	if !o.Landed {
		w.stale = true
		w.read = nil
		for i, k := range o.Keys {
			w.c.cache.Learn(k, cached(o.States[i], o.MemberRev))
		}
		if w.plan.NeedValue && len(o.Keys) == len(w.plan.Keys) {
			w.read, w.stale = &reading{rev: o.MemberRev, keys: o.Keys, states: o.States}, false
		}
		return
	}
	for i, s := range w.run.Steps {
		switch {
		case s.Put != nil:
			w.c.cache.Learn(s.Put.Key, w.putState(i, stamp, o.MemberRev))
		case s.Delete != nil && len(s.Delete.RangeEnd) == 0:
			w.c.cache.Learn(s.Delete.Key, statecache.State{NativeMod: o.MemberRev})
		}
	}
}

// putState is the state of step i's key after its put landed.
func (w *writer) putState(i int, stamp, rev int64) statecache.State {
	put := w.run.Steps[i].Put
	st := statecache.State{NativeMod: rev, NativeCreate: rev, Stamp: stamp, Create: stamp, Version: 1, Lease: put.Lease}
	if b := w.builtOf(put.Key); b.state.KV != nil {
		st.NativeCreate, st.Create, st.Version = b.state.NativeCreate, b.state.KV.CreateRevision, b.state.KV.Version+1
		if put.IgnoreLease {
			st.Lease = b.state.KV.Lease
		}
	}
	return st
}

// unstamped answers from a snapshot if nothing is written there either. Otherwise what this process knew was outdated.
func (w *writer) unstamped(ctx context.Context) (*pb.TxnResponse, bool, error) {
	resp, writes, err := w.c.answerUnstamped(ctx, w.plan, false)
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
func (w *writer) answer(ctx context.Context, r commit.Result) (*pb.TxnResponse, error) {
	results := r.Outcome.Results
	if w.run.Reads || r.Settled {
		var err error
		if results, err = w.c.replay(ctx, w.run, r.Stamp); err != nil {
			return nil, err
		}
	}
	return w.c.landed(w.plan, w.run, r.Stamp, results), nil
}

// landed acknowledges a transaction that landed at stamp.
func (c *core) landed(plan *translate.Plan, run *translate.Run, stamp int64, results []translate.Result) *pb.TxnResponse {
	c.tell(stamp)
	resp := plan.Answer(run, stamp, true, results)
	resp.Header = c.header()
	resp.Header.Revision = stamp
	return resp
}

// replay computes what the steps of a transaction that landed answered: each on the snapshot before it with its own earlier
// writes on top. Errors of these reads are not the transaction's: they become ErrUnknownOutcome.
func (c *core) replay(ctx context.Context, run *translate.Run, stamp int64) ([]translate.Result, error) {
	for {
		f, err := c.feedFor(ctx)
		if err != nil {
			return nil, err
		}
		out, err := c.replayOn(ctx, f, run, stamp)
		switch {
		case err == nil:
			return out, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case c.ctx.Err() != nil:
			return nil, c.whyOver()
		case f.over(): // compaction has overtaken the log: there will be another one
			continue
		}
		return nil, fmt.Errorf("%w: it took effect at revision %d, but what it answers could not be read: %s", ErrUnknownOutcome, stamp, err.Error())
	}
}

func (c *core) replayOn(ctx context.Context, f *feed, run *translate.Run, stamp int64) ([]translate.Result, error) {
	if err := f.log.WaitClosed(ctx, stamp); err != nil {
		return nil, err
	}
	rp := &replay{c: c, f: f, stamp: stamp, byKey: map[string][]*mergedlog.Event{}}
	out := make([]translate.Result, len(run.Steps))
	for i, s := range run.Steps {
		var err error
		if out[i], err = rp.step(ctx, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fencedRead reads one key with a stamp of its own, from its member alone (section 7): it goes on while another member
// holds up the closed revision.
func (c *core) fencedRead(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	member := c.owner(r.Key)
	for {
		if _, err := c.awaitUnlocked(ctx, member, false, r.Key); err != nil {
			return nil, err
		}
		res, err := c.commit.Do(ctx, member, &commit.Op{
			Keys: [][]byte{r.Key}, Size: len(r.Key),
			Build: func(stamp int64, mark int) (*translate.Guarded, error) {
				return translate.Read(r.Key, stamp, mark, c.ring.Slot), nil
			},
		})
		if errors.Is(err, ErrUnknownOutcome) { // nothing was to be written: it is free to be asked again
			if c.ctx.Err() != nil {
				return nil, c.whyOver()
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if !res.Outcome.Landed || res.Settled { // a settled read has lost its answer: it is free to be asked again
			continue
		}
		var part snapshot.Part
		if rs := res.Outcome.Results; len(rs) > 0 {
			part.Kvs, part.Count = rs[0].Range.Kvs, rs[0].Range.Count
		}
		resp, err := snapshot.Merge(r, []snapshot.Part{part})
		if err != nil {
			return nil, err
		}
		c.metrics.fencedReads.Inc()
		c.tell(res.Stamp)
		resp.Header = c.header()
		resp.Header.Revision = res.Stamp
		return resp, nil
	}
}
