package translate_test

import (
	"slices"
	"strconv"
	gotesting "testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// world is one member, several writers whose knowledge is more or less outdated, and the truth.
type world struct {
	*member
	t *rapid.T

	truth etcd
	views []*view // what writers may believe, latest last

	epoch, fence, clock, lock int64
	slotClocks                [slots]int64
	native                    map[string]history
	slotRev, fenceRev         int64 // native revisions at which a slot clock and the fence were last set

	used    map[int64]bool // stamps
	base    int64          // below all stamps of the epoch
	highest int64
	// For every key the highest stamp that wrote, deleted, compared or read it. This is what the guards are for, said
	// without slots, fences and pins: nothing may land on a key below it.
	settled map[string]int64
}

// history says when a member last changed and last created a key; created is 0 for an absent one.
type history struct{ changed, created int64 }

func newWorld(t *rapid.T) *world {
	w := &world{
		member: newMember(t), t: t, truth: etcd{}, epoch: 1, native: map[string]history{}, used: map[int64]bool{},
		settled: map[string]int64{},
	}
	w.look()
	return w
}

func TestTransactionsLandAsOnOneEtcd(t *gotesting.T) {
	for i := range 10 {
		t.Run(strconv.Itoa(i), func(t *gotesting.T) {
			t.Parallel()
			testTransactions(t)
		})
	}
}

func testTransactions(t *gotesting.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"":          func(*rapid.T) { w.check() },
			"look":      w.do((*world).look),
			"batch 1":   w.do((*world).batch),
			"batch 2":   w.do((*world).batch),
			"batch 3":   w.do((*world).batch),
			"exclusive": w.do((*world).exclusive),
			"raise":     w.do((*world).raise),
			"lock":      w.do((*world).toggleLock),
			"lock slot": w.do((*world).toggleSlot),
			"rebuild":   w.do((*world).rebuild),
		})
	})
}

func (w *world) do(action func(*world)) func(*rapid.T) {
	return func(t *rapid.T) {
		w.t = t
		action(w)
	}
}

func (w *world) rarely(what string) bool { return rapid.IntRange(0, 9).Draw(w.t, what) == 0 }

func (w *world) look() {
	w.views = append(w.views, w.member.look())
	if len(w.views) > 3 {
		w.views = w.views[1:]
	}
}

// stamp returns an unused stamp, not far from the others.
func (w *world) stamp() int64 {
	s := max(w.highest+rapid.Int64Range(-6, 3).Draw(w.t, "stamp"), w.base+1)
	for w.used[s] {
		s++
	}
	w.used[s] = true
	w.highest = max(w.highest, s)
	return s
}

func (w *world) raise() {
	if f := w.highest + rapid.Int64Range(-4, 1).Draw(w.t, "fence"); f > w.fence {
		w.fence = f
		w.fenceRev = w.put(record.KeyFence, record.Pair(w.epoch, f))
	}
}

func (w *world) toggleLock() {
	if w.lock == 0 && !w.rarely("lock") {
		return
	}
	w.lock = 1 - w.lock
	w.put(record.KeyLock, map[int64][]byte{1: []byte("some id")}[w.lock])
}

func (w *world) toggleSlot() {
	s := rapid.IntRange(0, slots-1).Draw(w.t, "slot")
	if w.slotClocks[s] == locked {
		w.slotClocks[s] = w.highest
		w.slotRev = w.put(string(record.SlotKey(s)), record.Number(w.highest))
	} else if w.rarely("lock slot") {
		w.slotClocks[s] = locked
		w.slotRev = w.put(string(record.SlotKey(s)), infinity)
	}
}

func (w *world) rebuild() {
	if w.rarely("rebuild") {
		w.epoch, w.base = w.epoch+1, max(w.clock, w.fence)
		w.fenceRev = w.put(record.KeyFence, record.Pair(w.epoch, w.fence))
	}
}

// check compares the member with the truth.
func (w *world) check() {
	got := w.users()
	require.Len(w.t, got, len(w.truth))
	for key, kv := range w.truth {
		require.True(w.t, proto.Equal(kv, got[key]), "%q is %v, want %v", key, got[key], kv)
	}
	_, clock := w.pair(record.KeyClock)
	require.Equal(w.t, w.clock, clock, "clock")
}

// attempt is one transaction of a writer.
type attempt struct {
	plan *translate.Plan
	view *view
	run  *translate.Run
}

// attempt draws a transaction and evaluates it on what its writer knows. Nil: it would not write.
func (w *world) attempt(ranged bool) *attempt {
	req := txns{w.t, w.truth, ranged}.draw()
	if req == nil {
		return nil
	}
	a := &attempt{plan: translate.NewPlan(req, w.ring)}
	if a.plan.Exclusive() != ranged {
		return nil
	}
	if rapid.IntRange(0, 2).Draw(w.t, "look") > 0 {
		w.look()
	}
	a.view = w.views[max(0, len(w.views)-1-rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(w.t, "views ago"))]
	for _, key := range a.plan.Keys {
		if a.plan.DemandsAbsent(key) && w.rarely("guess") {
			a.view = a.view.forget(key)
		}
	}
	var err error
	if a.run, err = a.plan.Evaluate(a.view); err != nil {
		_, _, want := a.view.user.run(req, 1)
		require.Equal(w.t, want, err)
		return nil
	}
	if !a.run.Writes(a.view) {
		return nil
	}
	if a.plan.Blind() && rapid.Bool().Draw(w.t, "over other puts") {
		a.view = a.view.over(a.plan.Keys[0])
	}
	return a
}

// touched are the keys that the guards protect, and whether they end with the stamp in their header.
func (a *attempt) touched() map[string]bool {
	keys := map[string]bool{}
	for _, s := range a.run.Steps {
		switch {
		case s.Put != nil:
			keys[string(s.Put.Key)] = true
		case s.Delete != nil && len(s.Delete.RangeEnd) == 0:
			keys[string(s.Delete.Key)] = false
		}
	}
	for _, s := range a.run.Steps { // an own delete, wherever it stands: deletes of etcd's own may also run before a put
		if s.Delete != nil && len(s.Delete.RangeEnd) == 0 {
			keys[string(s.Delete.Key)] = false
		}
	}
	for _, k := range a.run.Compared {
		if _, ok := keys[string(k)]; !ok {
			keys[string(k)] = false
		}
	}
	return keys
}

// stale says that the writer knows already that its stamp is too low.
func (a *attempt) stale(stamp int64) bool {
	for key := range a.touched() {
		if kv := a.view.states[key].KV; kv != nil && kv.ModRevision >= stamp {
			return true
		}
	}
	return false
}

// pinned says that what the writer relied on is still so.
func (w *world) pinned(a *attempt, stamp int64) bool {
	for key := range a.touched() {
		known, now := a.view.states[key], w.native[key]
		switch {
		case known.KV == nil:
			if now.created != 0 {
				return false
			}
		case known.NativeMod == 0:
			if now.created != known.NativeCreate || w.truth[key].ModRevision >= stamp {
				return false
			}
		case now.created == 0 || now.changed != known.NativeMod:
			return false
		}
	}
	return true
}

// land applies a transaction to the truth and checks what the member answered.
func (w *world) land(a *attempt, stamp int64, out translate.Outcome) {
	for key := range a.touched() {
		require.Greater(w.t, stamp, w.settled[key], "%q was written, deleted, compared or read above the stamp", key)
		w.settled[key] = stamp
	}
	after, want, err := w.truth.run(a.plan.Req, stamp)
	require.NoError(w.t, err)
	reads, results := ranges(want), make([]translate.Result, 0, len(a.run.Steps))
	own := out.Results
	for _, s := range a.run.Steps {
		if s.Range != nil {
			results, reads = append(results, translate.Result{Range: reads[0]}), reads[1:]
		} else {
			results, own = append(results, own[0]), own[1:]
		}
	}
	require.Empty(w.t, own)
	got := a.plan.Answer(a.run, stamp, true, results)
	require.True(w.t, proto.Equal(want, got), "%v\nanswered  %v\nwant      %v", a.plan.Req, got, want)
	for _, key := range alphabet {
		before, now := w.truth[key], after[key]
		switch h := w.native[key]; {
		case now == nil:
			w.native[key] = history{}
		case now != before && (before == nil || now.CreateRevision != before.CreateRevision):
			w.native[key] = history{out.MemberRev, out.MemberRev}
		case now != before:
			w.native[key] = history{out.MemberRev, h.created}
		}
	}
	w.truth = after
}

// refused checks that a refusal brings the present states of what was pinned.
func (w *world) refused(a *attempt, out translate.Outcome) {
	require.Empty(w.t, out.Results)
	require.Len(w.t, out.States, len(out.Keys))
	require.ElementsMatch(w.t, slices.Collect(mapKeys(a.touched())), strings(out.Keys))
	for i, key := range out.Keys {
		h, kv := w.native[string(key)], w.truth[string(key)]
		require.Equal(w.t, h.changed, out.States[i].NativeMod)
		require.Equal(w.t, h.created, out.States[i].NativeCreate)
		require.Equal(w.t, kv != nil, out.States[i].HasValue)
		require.True(w.t, equalKV(kv, out.States[i].KV), "state of %q: %v, want %v", key, out.States[i].KV, kv)
	}
}

func equalKV(a, b *mvccpb.KeyValue) bool {
	return (a == nil) == (b == nil) && proto.Equal(a, b)
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func strings(keys [][]byte) (out []string) {
	for _, k := range keys {
		out = append(out, string(k))
	}
	return out
}

// members of a batch
type passenger struct {
	guarded *translate.Guarded
	attempt *attempt // nil: a fenced read of key
	key     string
}

func (p passenger) stamp() int64 { return p.guarded.Stamp }

func (p passenger) touched() map[string]bool {
	if p.attempt == nil {
		return map[string]bool{p.key: false}
	}
	return p.attempt.touched()
}

// batch sends a few operations at once, or, as after an error that is one operation's own, in two parts.
func (w *world) batch() {
	epoch := w.epoch
	if w.rarely("other epoch") {
		epoch += rapid.SampledFrom([]int64{-1, 1}).Draw(w.t, "epoch")
	}
	var ops []passenger
	keys, clocks := map[string]bool{}, map[int]bool{}
	for range rapid.IntRange(0, 6).Draw(w.t, "operations") {
		p, ok := w.passenger(keys, len(ops))
		if !ok || slices.ContainsFunc(p.guarded.Slots, func(s int) bool { return clocks[s] }) {
			continue
		}
		for _, s := range p.guarded.Slots {
			clocks[s] = true
		}
		ops = append(ops, p)
	}
	var surrender []int64
	for range rapid.IntRange(0, 2).Draw(w.t, "surrendered") {
		surrender = append(surrender, w.stamp())
	}
	if len(ops) > 1 && w.rarely("split") {
		w.send(epoch, ops[:len(ops)/2], surrender)
		ops, surrender = ops[len(ops)/2:], nil
	}
	if len(ops)+len(surrender) > 0 {
		w.send(epoch, ops, surrender)
	}
}

// passenger draws an operation on keys of its own.
func (w *world) passenger(keys map[string]bool, index int) (passenger, bool) {
	if w.rarely("read") {
		p := passenger{key: rapid.SampledFrom(alphabet).Draw(w.t, "read key")}
		if keys[p.key] {
			return p, false
		}
		keys[p.key] = true
		p.guarded = translate.Read([]byte(p.key), w.stamp(), index, w.ring.Slot)
		return p, true
	}
	a := w.attempt(false)
	if a == nil || slices.ContainsFunc(a.plan.Keys, func(k []byte) bool { return keys[string(k)] }) {
		return passenger{}, false
	}
	for _, k := range a.plan.Keys {
		keys[string(k)] = true
	}
	stamp := w.stamp()
	g, err := a.plan.Guard(a.run, a.view.state, stamp, index, w.ring.Slot)
	if a.stale(stamp) {
		require.ErrorIs(w.t, err, translate.ErrStale)
		return passenger{}, false
	}
	require.NoError(w.t, err)
	return passenger{guarded: g, attempt: a}, true
}

// send sends one batch and checks everything that it did.
func (w *world) send(epoch int64, ops []passenger, surrender []int64) {
	before := w.get("\x00", "").Header.Revision
	b := translate.Batch{Epoch: epoch, Surrender: surrender}
	low, high := int64(locked), int64(0)
	for _, p := range ops {
		b.Ops = append(b.Ops, p.guarded)
		low, high = min(low, p.stamp()), max(high, p.stamp())
	}
	for _, s := range surrender {
		high = max(high, s)
	}
	b.Together = len(ops) > 0 && b.CanTogether(128) && rapid.Bool().Draw(w.t, "together")
	resp := w.member.send(b.Request())
	outs, err := b.Decode(resp)
	if epoch != w.epoch {
		got, ok := wrongEpoch(err)
		require.True(w.t, ok)
		require.Equal(w.t, w.epoch, got)
		require.Equal(w.t, before, resp.Header.Revision, "something was written")
		return
	}
	require.NoError(w.t, err)
	require.Equal(w.t, before+1, resp.Header.Revision)
	marks, clocks := w.marks(before + 1)
	require.Len(w.t, marks, len(ops)+len(surrender))
	for _, s := range surrender {
		require.Equal(w.t, mark{reasons: []record.Reason{record.Surrendered}}, marks[s])
	}
	w.clock = max(w.clock, high)
	w.outcomes(ops, outs, marks, b.Together, w.fence >= low || w.lock != 0)
	w.slotClocksAre(ops, outs, clocks)
	if len(clocks) > 0 {
		w.slotRev = before + 1
	}
}

// outcomes checks what became of each operation. All guards are evaluated on the state before the batch.
func (w *world) outcomes(ops []passenger, outs []translate.Outcome, marks map[int64]mark, together, fenced bool) {
	require.Len(w.t, outs, len(ops))
	lands := make([]bool, len(ops))
	for i, p := range ops {
		lands[i] = w.guardsHold(p)
	}
	all := !slices.Contains(lands, false)
	rev := w.get("\x00", "").Header.Revision
	for i, p := range ops {
		out, m, refusal := outs[i], marks[p.stamp()], record.SlotAhead
		if fenced {
			refusal = record.Fenced
		}
		require.Equal(w.t, !fenced && lands[i] && (all || !together), out.Landed, "stamp %d: %v", p.stamp(), p.guarded.Txn)
		require.Equal(w.t, rev, out.MemberRev)
		require.Equal(w.t, fenced, out.Fenced)
		require.Equal(w.t, together && !all && !fenced, out.Together)
		if out.Landed {
			require.Positive(w.t, m.effects)
			require.Empty(w.t, m.reasons)
			w.landed(p, out)
			continue
		}
		require.Equal(w.t, mark{reasons: []record.Reason{refusal}}, m)
		if fenced || together || p.attempt == nil {
			require.Empty(w.t, out.Keys)
		} else {
			w.refused(p.attempt, out)
		}
	}
}

func (w *world) guardsHold(p passenger) bool {
	if !w.slotsBelow(p.touched(), p.stamp()) {
		return false
	}
	if p.attempt != nil {
		return w.pinned(p.attempt, p.stamp())
	}
	kv := w.truth[p.key]
	return kv == nil || kv.ModRevision < p.stamp()
}

func (w *world) slotsBelow(keys map[string]bool, stamp int64) bool {
	for key := range keys {
		if w.slotClocks[w.ring.Slot([]byte(key))] >= stamp {
			return false
		}
	}
	return true
}

func (w *world) landed(p passenger, out translate.Outcome) {
	if p.attempt != nil {
		w.land(p.attempt, p.stamp(), out)
		return
	}
	require.Greater(w.t, p.stamp(), w.settled[p.key])
	w.settled[p.key] = p.stamp()
	kv := w.truth[p.key]
	if kv == nil {
		require.Empty(w.t, out.Results)
		return
	}
	require.Len(w.t, out.Results, 1)
	require.Len(w.t, out.Results[0].Range.Kvs, 1)
	require.True(w.t, proto.Equal(kv, out.Results[0].Range.Kvs[0]))
	require.Equal(w.t, int64(1), out.Results[0].Range.Count)
}

// slotClocksAre checks that exactly the slots of keys that are protected without a header of their own were set.
func (w *world) slotClocksAre(ops []passenger, outs []translate.Outcome, got map[int]int64) {
	want := map[int]int64{}
	for i, p := range ops {
		for key, headed := range p.touched() {
			if outs[i].Landed && !headed {
				want[w.ring.Slot([]byte(key))] = p.stamp()
			}
		}
	}
	require.Equal(w.t, want, got, "slot clocks")
	for s, stamp := range want {
		w.slotClocks[s] = stamp
	}
}

// exclusive sends a transaction with range compares or range deletes.
func (w *world) exclusive() {
	a := w.attempt(true)
	if a == nil {
		return
	}
	epoch, stamp := w.epoch, w.stamp()
	if rapid.Bool().Draw(w.t, "above all") {
		stamp = w.highest + 1
		w.highest, w.used[stamp] = stamp, true
	}
	if w.rarely("other epoch") {
		epoch += rapid.SampledFrom([]int64{-1, 1}).Draw(w.t, "epoch")
	}
	x, err := a.plan.Exclude(a.run, a.view.state, a.view.rev, stamp, epoch)
	if a.stale(stamp) {
		require.ErrorIs(w.t, err, translate.ErrStale)
		return
	}
	require.NoError(w.t, err)
	before := w.get("\x00", "").Header.Revision
	resp := w.member.send(x.Txn)
	out, err := x.Decode(resp)
	if epoch != w.epoch {
		got, ok := wrongEpoch(err)
		require.True(w.t, ok)
		require.Equal(w.t, w.epoch, got)
		require.Equal(w.t, before, resp.Header.Revision, "something was written")
		return
	}
	require.NoError(w.t, err)
	require.Equal(w.t, before+1, out.MemberRev)
	lands := w.lock == 0 && w.fence < stamp && w.clock < stamp && !slices.Contains(w.slotClocks[:], locked) &&
		w.pinned(a, stamp) && w.rangesPinned(a)
	require.Equal(w.t, lands, out.Landed)
	marks, clocks := w.marks(out.MemberRev)
	require.Empty(w.t, clocks)
	require.Len(w.t, marks, 1)
	w.clock = max(w.clock, stamp)
	if !out.Landed {
		require.Equal(w.t, mark{reasons: []record.Reason{record.SlotAhead}}, marks[stamp])
		w.refused(a, out)
		return
	}
	require.Equal(w.t, []record.Reason{record.Exclusive}, marks[stamp].reasons)
	w.fence, w.fenceRev = stamp, out.MemberRev
	gotEpoch, gotFence := w.pair(record.KeyFence)
	require.Equal(w.t, []int64{w.epoch, stamp}, []int64{gotEpoch, gotFence})
	w.settleRanges(a, stamp)
	w.land(a, stamp, out)
}

// rangesPinned says that nothing was put into the compared ranges, and that nothing can have been deleted there.
func (w *world) rangesPinned(a *attempt) bool {
	if len(a.plan.Compared) == 0 {
		return true
	}
	for _, r := range a.plan.Compared {
		for _, key := range w.truth.keys(r.Key, r.End) {
			if w.native[key].changed > a.view.rev {
				return false
			}
		}
	}
	return w.slotRev <= a.view.rev && w.fenceRev <= a.view.rev
}

// settleRanges is the part of land that only range compares and range deletes have.
func (w *world) settleRanges(a *attempt, stamp int64) {
	touched := a.touched()
	for _, key := range alphabet {
		_, single := touched[key]
		in := func(r translate.Range) bool { return r.Contains([]byte(key)) }
		if !single && slices.ContainsFunc(slices.Concat(a.plan.Compared, a.plan.Deleted), in) {
			require.Greater(w.t, stamp, w.settled[key], "%q was written, deleted, compared or read above the stamp", key)
			w.settled[key] = stamp
		}
	}
}
