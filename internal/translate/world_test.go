package translate_test

import (
	"slices"
	"strconv"
	"testing"

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
	slotRev, fenceRev         int64 // member revisions at which a slot clock and the fence were last set
	lockRev                   int64 // and the lock

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

func TestTransactionsLandAsOnOneEtcd(t *testing.T) {
	for i := range 6 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			testTransactions(t)
		})
	}
}

func testTransactions(t *testing.T) {
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
			"regrant":   w.do((*world).regrant),
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
	w.lockRev = w.put(record.KeyLock, map[int64][]byte{1: infinity}[w.lock])
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

// regrant gives a lease another record, as its death or another grant of the id does.
func (w *world) regrant() {
	if w.rarely("regrant") {
		id := rapid.SampledFrom(leases[2:]).Draw(w.t, "lease")
		w.put(string(record.LeaseKey(id)), record.LeaseRecord{Grant: w.stamp(), Dead: rapid.Bool().Draw(w.t, "dead")}.Encode())
	}
}

// check compares the member with the truth.
func (w *world) check() {
	got := w.users()
	require.Len(w.t, got, len(w.truth))
	for key, kv := range w.truth {
		require.True(w.t, proto.Equal(kv, got[key]), "%q is %v, want %v", key, got[key], kv)
	}
	require.Equal(w.t, w.clock, w.member.clock(), "clock")
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
	if a.run, err = a.view.evaluate(a.plan); err != nil {
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
	for _, k := range a.run.Compared {
		if _, ok := keys[string(k)]; !ok {
			keys[string(k)] = false
		}
	}
	return keys
}

// mixed says that a key is put and deleted, which is not for one revision of a member.
func (a *attempt) mixed() bool {
	return slices.ContainsFunc(a.run.Steps, func(p translate.Step) bool {
		return p.Put != nil && slices.ContainsFunc(a.run.Steps, func(s translate.Step) bool {
			return s.Delete != nil && translate.Range{Key: s.Delete.Key, End: s.Delete.RangeEnd}.Contains(p.Put.Key)
		})
	})
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
	for _, id := range a.run.Leases() {
		if string(a.view.leases[id]) != string(w.records()[id]) {
			return false
		}
	}
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

func (p passenger) stamp() int64 { return p.guarded.Stamp }

func (p passenger) touched() map[string]bool {
	if p.attempt == nil {
		return map[string]bool{p.key: false}
	}
	return p.attempt.touched()
}
