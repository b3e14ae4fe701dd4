package translate_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/manifest"
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
	x, err := a.plan.Exclude(a.run, a.view.state, a.view.rev, stamp, epoch, known, w.ring.Slot)
	switch {
	case a.mixed():
		require.ErrorIs(w.t, err, translate.ErrRounds)
		return
	case a.stale(stamp):
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
		require.Equal(w.t, manifest.Entry{Stamp: stamp, Kind: manifest.Pinned}, marks[stamp])
		w.refused(a, out)
		return
	}
	require.Equal(w.t, manifest.Exclusive, marks[stamp].Kind)
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
	return w.slotRev <= a.view.rev && w.fenceRev <= a.view.rev && w.lockRev <= a.view.rev
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

// compared compares all keys below "c" with a revision above all others, and puts "d".
func compared() *pb.TxnRequest {
	req := put("d", "")
	req.Compare = []*pb.Compare{{
		Key: []byte("a"), RangeEnd: []byte("c"), Target: pb.Compare_MOD, Result: pb.Compare_LESS,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: 1000},
	}}
	return req
}

// exclude sends an exclusive transaction that was evaluated on v.
func (m *member) exclude(req *pb.TxnRequest, v *view, stamp int64) translate.Outcome {
	m.t.Helper()
	plan := translate.NewPlan(req, m.ring)
	require.True(m.t, plan.Exclusive())
	run, err := v.evaluate(plan)
	require.NoError(m.t, err)
	x, err := plan.Exclude(run, v.state, v.rev, stamp, 1, known, m.ring.Slot)
	require.NoError(m.t, err)
	out, err := x.Decode(m.send(x.Txn))
	require.NoError(m.t, err)
	return out
}

// What was compared is pinned, with the keys that are not there.
func TestComparedRangesArePinned(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(m *member)
		lands  bool
	}{
		"nothing":                  {func(*member) {}, true},
		"a put beside it":          {func(m *member) { m.land(put("e", ""), m.look(), 20) }, true},
		"a put of a key in it":     {func(m *member) { m.land(put("a", "new"), m.look(), 20) }, false},
		"a put of a new key in it": {func(m *member) { m.land(put("b", ""), m.look(), 20) }, false},
		"a delete":                 {func(m *member) { m.land(remove("a", ""), m.look(), 20) }, false},
		"an exclusive delete":      {func(m *member) { m.exclude(remove("a", "b"), m.look(), 20) }, false},
		"a fence above":            {func(m *member) { m.put(record.KeyFence, record.Pair(1, 30)) }, false},
		"a landing above":          {func(m *member) { m.land(put("e", ""), m.look(), 40) }, false},
		"a locked slot": {func(m *member) {
			m.put(string(record.SlotKey(0)), infinity)
		}, false},
	} {
		m := newMember(t)
		require.True(t, m.land(put("a", "old"), m.look(), 10).Landed)
		v := m.look()
		tt.change(m)
		require.Equal(t, tt.lands, m.exclude(compared(), v, 30).Landed, name)
	}
}

// A range delete asks for nothing but its stamp to be the highest, and for no lock.
func TestDeletedRangesAreNotPinned(t *testing.T) {
	m := newMember(t)
	v := m.look()
	require.True(t, m.land(put("a", ""), v, 10).Landed)
	require.True(t, m.land(put("b", ""), v, 11).Landed)
	require.True(t, m.land(remove("b", ""), m.look(), 12).Landed)
	out := m.exclude(remove("a", "c"), v, 20)
	require.True(t, out.Landed)
	require.Equal(t, int64(1), out.Results[0].Deleted)
	require.False(t, m.land(put("c", ""), v, 15).Landed, "its fence lets nothing below land any more")
	m.put(string(record.SlotKey(0)), infinity)
	require.False(t, m.exclude(remove("a", "c"), v, 30).Landed)
}
