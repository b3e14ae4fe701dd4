package mergedlog

import (
	"context"
	"fmt"
	"maps"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

func (m *model) checkSince() {
	want := m.released()
	from := m.log.Floor()
	require.LessOrEqual(m.t, from, m.closed+1)
	if !m.tight {
		require.Equal(m.t, max(m.start+1, m.compacted), from, "floor")
	}
	if from > m.start {
		_, _, err := m.log.Since(from-1, 0)
		require.ErrorIs(m.t, err, ErrEvicted)
	}
	for len(want) > 0 && want[0].stamp < from {
		want = want[1:]
	}
	batch := m.w.draw(6)
	for from <= m.closed {
		evs, next, err := m.log.Since(from, batch)
		require.NoError(m.t, err)
		require.Greater(m.t, next, from)
		if batch > 0 && len(evs) > batch {
			require.Equal(m.t, evs[0].Rev, evs[len(evs)-1].Rev, "more than asked for, but not one stamp")
		}
		for _, e := range evs {
			require.NotEmpty(m.t, want)
			require.Equal(m.t, want[0].String(), eventString(e))
			want = want[1:]
		}
		if len(want) > 0 {
			require.GreaterOrEqual(m.t, want[0].stamp, next, "stamp split or skipped")
		}
		from = next
	}
	require.Empty(m.t, want)
	require.Equal(m.t, m.closed+1, from)
}

// checkSnapshot reads the range at r as a reader would.
func (m *model) checkSnapshot(r int64, key, end []byte) {
	ids := make([]int, len(m.w.members))
	for i := range ids {
		ids[i] = i
	}
	snaps, err := m.log.Snapshot(r, ids, key, end)
	if err != nil {
		require.ErrorIs(m.t, err, ErrEvicted)
		require.True(m.t, m.tight || r < m.compacted-1, "evicted without need: %d", r)
		return
	}
	got := map[string]string{}
	for i, s := range snaps {
		state := m.base(i, s.Lo)
		maps.DeleteFunc(state, func(k, _ string) bool { return !inRange([]byte(k), key, end) })
		for _, e := range s.Tail {
			if e.Type == mvccpb.Event_DELETE {
				delete(state, string(e.Kv.Key))
			} else {
				state[string(e.Kv.Key)] = kvString(e.Kv)
			}
		}
		maps.Copy(got, state)
	}
	want := m.stateAt(r)
	maps.DeleteFunc(want, func(k, _ string) bool { return !inRange([]byte(k), key, end) })
	require.Equal(m.t, want, got, "snapshot at %d of [%q, %q)", r, key, end)
}

// checkLo reads the state at r from the members' histories between lo and hi.
func (m *model) checkLo(r int64) {
	got := map[string]string{}
	for i, wm := range m.w.members {
		lo, hi, ok := m.log.Lo(i, r)
		if !ok {
			require.Less(m.t, r, m.compacted-1)
			return
		}
		require.LessOrEqual(m.t, m.opened[i], lo)
		require.LessOrEqual(m.t, lo, hi)
		require.LessOrEqual(m.t, hi, m.at[i].Rev)
		state := m.base(i, lo)
		for _, rev := range wm.history[lo:hi] {
			for _, e := range rev.evs {
				switch {
				case e.stamp > r:
				case e.del:
					delete(state, string(e.kv.Key))
				default:
					state[string(e.kv.Key)] = kvString(e.kv)
				}
			}
		}
		maps.Copy(got, state)
	}
	require.Equal(m.t, m.stateAt(r), got, "state at %d between lo and hi", r)
}

// checkOutcomes compares what the log says of every stamp in doubt with the delivered history.
func (m *model) checkOutcomes() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, d := range m.doubts {
		got, err := m.log.cfg.Doubts.Outcome(ctx, d.member, d.epoch, d.stamp)
		want, ok := m.outcome(d)
		if !ok {
			require.ErrorIs(m.t, err, context.Canceled, "stamp %d", d.stamp)
			continue
		}
		require.NoError(m.t, err)
		if want.Kind == Dead {
			got.Rev = 0
		}
		require.Equal(m.t, want, got, "stamp %d of epoch %d on member %d", d.stamp, d.epoch, d.member)
	}
}

func (m *model) checkState() {
	var known, epoch int64
	for i, at := range m.at {
		require.Equal(m.t, at, m.log.Position(i))
		known, epoch = max(known, at.Clock), max(epoch, at.Epoch)
	}
	require.Equal(m.t, known, m.log.Highest())
	require.Equal(m.t, epoch, m.log.Epoch())

	missing, gotKnown, blocked := m.log.Gap()
	wantBlocked := false
	var fenced uint64
	pending := 0
	for i, wm := range m.w.members {
		var ordered int64
		for _, r := range wm.history[m.opened[i]:m.at[i].Rev] {
			for _, e := range r.evs {
				if e.stamp > m.closed && !m.partial(e.stamp) {
					wantBlocked = true
					pending++
				}
			}
			for _, mk := range r.marks {
				if _, whole := r.locks[Whole]; mk.kind == manifest.Fenced && !whole && mk.stamp > ordered {
					fenced++
				}
			}
			for _, mk := range r.marks {
				if r.after.Fence > r.before.Fence && (mk.kind == manifest.Exclusive || mk.kind == manifest.Parted) {
					ordered = r.after.Fence
				}
			}
		}
	}
	require.Equal(m.t, fenced, m.log.FencedMarks())
	stats := m.log.Stats()
	if bound := (mostTimes - 1) * m.log.memory.max; m.tight {
		require.LessOrEqual(m.t, stats.Waiting, bound)
		require.LessOrEqual(m.t, stats.Bytes, m.log.memory.max)
	} else {
		require.Equal(m.t, pending, stats.Pending)
	}
	if !m.tight && m.compacted == 0 {
		require.Len(m.t, m.released(), stats.Released)
	}
	require.Equal(m.t, known, gotKnown)
	if m.partial(m.closed + 1) {
		require.Zero(m.t, missing, "parts are not missing")
	} else {
		require.Equal(m.t, m.closed+1, missing)
		require.True(m.t, blocked == wantBlocked || blocked && m.tight, "of what was let go, it is not known what were events")
	}
	require.Equal(m.t, lockStrings(m.locksSeen()), lockStrings(m.log.Locks()))
	require.Equal(m.t, len(m.locksSeen()), m.log.Locked())
}

func (e worldEvent) String() string {
	return fmt.Sprintf("del=%v rev=%d native=%d %s", e.del, e.stamp, e.rev, kvString(e.kv))
}

func eventString(e *Event) string {
	return fmt.Sprintf("del=%v rev=%d native=%d %s", e.Type == mvccpb.Event_DELETE, e.Rev, e.MemberRev, kvString(e.Kv))
}

func kvString(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("%s=%q create=%d mod=%d version=%d lease=%d",
		kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

// checkPrevious replays the released events: what one says of the value before it is what there was before its stamp, and nothing
// if a put follows a delete.
func (m *model) checkPrevious() {
	from := m.log.Floor()
	state := m.stateAt(from - 1)
	evs, _, err := m.log.Since(from, 0)
	require.NoError(m.t, err)
	before, stamp := map[string]string{}, int64(0)
	for _, e := range evs {
		if e.Rev > stamp {
			before, stamp = maps.Clone(state), e.Rev
		}
		key := string(e.Kv.Key)
		want, ok := before[key]
		if _, there := state[key]; ok && (there || e.Type == mvccpb.Event_DELETE) {
			require.NotNil(m.t, e.PrevKv)
			require.Equal(m.t, want, kvString(e.PrevKv))
		} else {
			require.Nil(m.t, e.PrevKv)
		}
		if delete(state, key); e.Type == mvccpb.Event_PUT {
			state[key] = kvString(e.Kv)
		}
	}
}

func (m *model) checkAll() {
	m.checkSince()
	m.checkPrevious()
	m.checkOutcomes()
	for r := m.start; r <= m.closed; r++ {
		m.checkSnapshot(r, []byte{0}, []byte{0})
		key, end := m.randomRange()
		m.checkSnapshot(r, key, end)
		m.checkLo(r)
	}
	_, err := m.log.Snapshot(m.closed+1, []int{0}, []byte{0}, []byte{0})
	require.ErrorIs(m.t, err, ErrNotClosed)
	_, err = m.log.Snapshot(m.start-1, []int{0}, []byte{0}, []byte{0})
	require.ErrorIs(m.t, err, ErrEvicted)
}
