package translate_test

import (
	"slices"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// passenger is one operation of a batch.
type passenger struct {
	guarded *translate.Guarded
	attempt *attempt // nil: a fenced read of key
	key     string
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
	switch {
	case a.mixed():
		require.ErrorIs(w.t, err, translate.ErrRounds)
		return passenger{}, false
	case a.stale(stamp):
		require.ErrorIs(w.t, err, translate.ErrStale)
		return passenger{}, false
	}
	require.NoError(w.t, err)
	return passenger{guarded: g, attempt: a}, true
}

// send sends one batch and checks everything that it did.
func (w *world) send(epoch int64, ops []passenger, surrender []int64) {
	before := w.get("\x00", "").Header.Revision
	b := translate.Batch{Epoch: epoch, Closed: known, Surrender: surrender}
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
	outs, marks, err := b.Decode(resp)
	if epoch != w.epoch {
		got, ok := wrongEpoch(err)
		require.True(w.t, ok)
		require.Equal(w.t, w.epoch, got)
		require.Equal(w.t, before, resp.Header.Revision, "something was written")
		return
	}
	require.NoError(w.t, err)
	fenced := len(ops) > 0 && (w.fence >= low || w.lock != 0)
	if marks {
		require.Equal(w.t, before, resp.Header.Revision, "what is refused as a whole leaves nothing")
		w.mark(&b, outs)
	}
	require.Equal(w.t, before+1, w.get("\x00", "").Header.Revision)
	entries, clocks := w.marks(before + 1)
	require.Len(w.t, entries, len(ops)+len(surrender))
	for _, s := range surrender {
		require.Equal(w.t, manifest.Entry{Stamp: s, Kind: manifest.Surrendered}, entries[s])
	}
	w.clock = max(w.clock, high)
	w.outcomes(ops, outs, entries, b.Together, fenced)
	w.slotClocksAre(ops, outs, clocks)
	if len(clocks) > 0 {
		w.slotRev = before + 1
	}
}

// mark marks what was refused as a whole; in another epoch, it leaves nothing.
func (w *world) mark(b *translate.Batch, outs []translate.Outcome) {
	before := w.get("\x00", "").Header.Revision
	late := *b
	late.Epoch--
	got, ok := wrongEpoch(late.DecodeMark(outs, 128, w.member.send(late.Mark(outs, 128))))
	require.True(w.t, ok)
	require.Equal(w.t, w.epoch, got)
	require.Equal(w.t, before, w.get("\x00", "").Header.Revision, "something was written")
	require.NoError(w.t, b.DecodeMark(outs, 128, w.member.send(b.Mark(outs, 128))))
}

// outcomes checks what became of each operation. All guards are evaluated on the state before the batch.
func (w *world) outcomes(ops []passenger, outs []translate.Outcome, entries map[int64]manifest.Entry, together, fenced bool) {
	require.Len(w.t, outs, len(ops))
	lands := make([]bool, len(ops))
	for i, p := range ops {
		lands[i] = w.guardsHold(p)
	}
	all := !slices.Contains(lands, false)
	rev := w.get("\x00", "").Header.Revision
	for i, p := range ops {
		out, e, refusal := outs[i], entries[p.stamp()], manifest.Pinned
		if fenced {
			refusal = manifest.Fenced
		}
		require.Equal(w.t, !fenced && lands[i] && (all || !together), out.Landed, "stamp %d: %v", p.stamp(), p.guarded.Txn)
		if !fenced {
			require.Equal(w.t, rev, out.MemberRev)
		}
		require.Equal(w.t, fenced, out.Fenced)
		require.Equal(w.t, together && !all && !fenced, out.Together)
		if out.Landed {
			require.Equal(w.t, manifest.Entry{Stamp: p.stamp(), Kind: manifest.Landed, Names: p.guarded.Names}, e)
			require.Len(w.t, e.Names, len(p.touched()))
			for _, n := range e.Names {
				require.Contains(w.t, p.touched(), string(n.Key))
			}
			w.landed(p, out)
			continue
		}
		require.Equal(w.t, manifest.Entry{Stamp: p.stamp(), Kind: refusal}, e)
		if fenced || p.attempt == nil {
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
