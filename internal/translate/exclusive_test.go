package translate_test

import (
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

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
