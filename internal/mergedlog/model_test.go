package mergedlog

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/record"
)

// model is the naive counterpart of a log: it looks at everything from the beginning, every time.
type model struct {
	t     *rapid.T
	w     *world
	log   *Log
	tight bool // the log may have evicted

	opened    []int64 // native revision; -1: not open
	at        []MemberState
	raises    []raiseReply
	seen      map[int64]bool
	parts     map[int64][]bool // delivered, by stamp
	start     int64
	closed    int64
	compacted int64
	doubts    []modelDoubt
}

type modelDoubt struct {
	member int
	flight
}

func newModel(t *rapid.T) *model {
	bound := rapid.SampledFrom([]int{indexBound, 4, 7}).Draw(t, "bound")
	maxBytes := rapid.SampledFrom([]int64{0, 3 * perEvent, 12 * perEvent}).Draw(t, "bytes")
	n := rapid.IntRange(1, 4).Draw(t, "members")
	m := &model{
		t: t, w: newWorld(t, n), tight: maxBytes > 0, seen: map[int64]bool{}, parts: map[int64][]bool{},
		log: newLog(Config{Members: n, SlotOf: worldSlot, MaxBytes: maxBytes}, bound),
		at:  make([]MemberState, n), opened: make([]int64, n),
	}
	for i := range n {
		m.opened[i] = -1
	}
	m.w.onSend = func(member int, f flight) {
		if m.opened[member] >= 0 && m.w.draw(3) == 0 {
			m.log.Track(member, f.epoch, f.stamp)
			m.doubts = append(m.doubts, modelDoubt{member, f})
		}
	}
	return m
}

func (m *model) open(i int) {
	s := m.w.members[i].state
	m.opened[i], m.at[i] = s.Rev, s
	m.log.Open(i, s, m.w.members[i].held()...)
}

// deliver brings up to n revisions of the member to the log.
func (m *model) deliver(i, n int) {
	wm := m.w.members[i]
	var revs []MemberRevision
	for ; n > 0 && m.at[i].Rev < wm.state.Rev; n-- {
		r := wm.history[m.at[i].Rev]
		for _, mk := range r.marks {
			m.seen[mk.stamp] = true
		}
		m.notePart(r.part)
		fence := max(m.at[i].Fence, r.after.Fence)
		m.at[i] = r.after
		m.at[i].Fence = fence
		m.noteRaises()
		revs = append(revs, wm.deliverable(r.after.Rev))
	}
	require.NoError(m.t, m.log.Append(i, revs))
	m.advance()
}

func (m *model) noteRaises() {
	m.raises = slices.DeleteFunc(m.raises, func(r raiseReply) bool {
		at := &m.at[r.member]
		if m.opened[r.member] < 0 || at.Rev < r.rev {
			return false
		}
		if at.Epoch == r.epoch {
			at.Fence = max(at.Fence, r.fence)
		}
		return true
	})
}

func (m *model) answerRaise(i int, fence int64) {
	if r, ok := m.w.raise(m.w.members[i], m.w.epoch, fence); ok {
		m.raises = append(m.raises, r)
		m.noteRaises()
		m.log.FenceHolds(r.member, r.epoch, r.fence, r.rev)
		m.advance()
	}
}

func (m *model) minFence() int64 {
	f := m.at[0].Fence
	for _, s := range m.at {
		f = min(f, s.Fence)
	}
	return f
}

// advance is the definition of W.
func (m *model) advance() {
	if m.start == 0 {
		return
	}
	for (m.seen[m.closed+1] || m.closed+1 <= m.minFence()) && !m.partial(m.closed+1) {
		m.closed++
	}
	require.Equal(m.t, m.closed, m.log.Closed(), "closed revision")
}

// startUp goes the way of a starting process.
func (m *model) startUp() {
	for m.start == 0 {
		for m.w.claimed >= 0 {
			m.w.rebuild()
		}
		c := m.w.clock
		for i := range m.w.members {
			m.answerRaise(i, c)
			for range m.w.draw(3) {
				m.w.step()
			}
		}
		for i := range m.w.members {
			if m.w.draw(4) > 0 {
				m.deliver(i, 1000)
			}
		}
		if m.minFence() >= c {
			m.w.finishDecided(c)
			for i := range m.w.members {
				m.deliver(i, 1<<30)
			}
			for i, wm := range m.w.members {
				require.Equal(m.t, wm.state.Rev, m.at[i].Rev)
			}
		}
		err := m.log.Start(c)
		if m.minFence() < c {
			require.ErrorIs(m.t, err, ErrNotFenced)
			continue
		}
		require.NoError(m.t, err)
		m.start, m.closed = c, c
		maps.DeleteFunc(m.parts, func(stamp int64, _ []bool) bool { return stamp <= c })
		m.advance()
	}
}

// released is what Since has to show: events in (start, closed], by stamp, then as they landed.
func (m *model) released() (evs []worldEvent) {
	for _, e := range m.w.landed {
		if e.stamp > m.start && e.stamp <= m.closed {
			evs = append(evs, e)
		}
	}
	slices.SortStableFunc(evs, func(a, b worldEvent) int {
		if a.stamp == b.stamp && a.parted {
			return cmp.Or(a.order-b.order, bytes.Compare(a.kv.Key, b.kv.Key))
		}
		return int(a.stamp - b.stamp)
	})
	return evs
}

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

// stateAt replays everything that ever landed.
func (m *model) stateAt(r int64) map[string]string {
	evs := slices.Clone(m.w.landed)
	slices.SortStableFunc(evs, func(a, b worldEvent) int { return int(a.stamp - b.stamp) })
	state := map[string]string{}
	for _, e := range evs {
		switch {
		case e.stamp > r:
		case e.del:
			delete(state, string(e.kv.Key))
		default:
			state[string(e.kv.Key)] = kvString(e.kv)
		}
	}
	return state
}

func (m *model) base(member int, rev int64) map[string]string {
	state := map[string]string{}
	for key, kv := range m.w.members[member].states[rev] {
		state[key] = kvString(userView(kv))
	}
	return state
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

func (m *model) randomRange() (key, end []byte) {
	at := func() []byte { return []byte(m.w.key(m.w.draw(len(m.w.members)), m.w.draw(keysPerMember))) }
	switch m.w.draw(4) {
	case 0:
		return []byte{0}, []byte{0}
	case 1:
		return at(), nil
	case 2:
		return at(), []byte{0}
	}
	return at(), at()
}

func inRange(k, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(key, k) <= 0 && bytes.Compare(k, end) < 0
}

// checkOutcomes compares what the log says of every stamp in doubt with the delivered history.
func (m *model) checkOutcomes() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, d := range m.doubts {
		got, err := m.log.Outcome(ctx, d.member, d.epoch, d.stamp)
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

func (m *model) outcome(d modelDoubt) (Outcome, bool) {
	at := m.at[d.member]
	for _, r := range m.w.members[d.member].history[m.opened[d.member]:at.Rev] {
		for _, mk := range r.marks {
			if mk.stamp == d.stamp && r.before.Epoch == d.epoch {
				o := Outcome{Kind: Refused, Reason: mk.reason, Rev: r.after.Rev}
				if mk.landed {
					o.Kind = Landed
				}
				return o, true
			}
		}
	}
	return Outcome{Kind: Dead}, at.Fence >= d.stamp || at.Epoch > d.epoch
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
				if _, whole := r.locks[Whole]; mk.reason == record.Fenced && !whole && mk.stamp > ordered {
					fenced++
				}
			}
			for _, mk := range r.marks {
				if r.after.Fence > r.before.Fence && (mk.reason == record.Exclusive || mk.reason == record.Parted) {
					ordered = r.after.Fence
				}
			}
		}
	}
	require.Equal(m.t, fenced, m.log.FencedMarks())
	stats := m.log.Stats()
	require.Equal(m.t, pending, stats.Pending)
	if !m.tight && m.compacted == 0 {
		require.Len(m.t, m.released(), stats.Released)
	}
	require.Equal(m.t, known, gotKnown)
	if m.partial(m.closed + 1) {
		require.Zero(m.t, missing, "parts are not missing")
	} else {
		require.Equal(m.t, m.closed+1, missing)
		require.Equal(m.t, wantBlocked, blocked)
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

// checkPrevious replays the released events: what one says of the value before it is what the one before it set.
func (m *model) checkPrevious() {
	from := m.log.Floor()
	state := m.stateAt(from - 1)
	evs, _, err := m.log.Since(from, 0)
	require.NoError(m.t, err)
	for _, e := range evs {
		key := string(e.Kv.Key)
		if prev, ok := state[key]; ok {
			require.NotNil(m.t, e.PrevKv)
			require.Equal(m.t, prev, kvString(e.PrevKv))
		} else {
			require.Nil(m.t, e.PrevKv)
		}
		if delete(state, key); e.Type == mvccpb.Event_PUT {
			state[key] = kvString(e.Kv)
		}
	}
}

func (m *model) step() {
	i := m.w.draw(len(m.w.members))
	advanced, was := m.log.Advanced(), m.closed
	switch x := m.w.draw(20); {
	case x < 10:
		m.w.step()
	case x < 17:
		m.deliver(i, 1+m.w.draw(4))
	case x < 18:
		m.answerRaise(i, 1+int64(m.w.draw(int(m.w.clock))))
	case x < 19:
		for i := range m.w.members {
			m.answerRaise(i, m.w.clock)
		}
	case m.w.draw(5) == 0:
		r := m.start + int64(m.w.draw(int(m.closed-m.start+1)))
		m.log.SetCompacted(r)
		if r > m.start {
			m.compacted = max(m.compacted, r)
		}
	}
	select {
	case <-advanced:
		require.Greater(m.t, m.closed, was)
	default:
		require.Equal(m.t, was, m.closed)
	}
	m.checkState()
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

// TestModel runs random members that obey the protocol and compares the log with the definitions.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		for range rapid.SampledFrom([]int{0, 10, 40}).Draw(t, "history") {
			m.w.step()
		}
		for i := range m.w.members {
			m.open(i)
			for range m.w.draw(4) {
				m.w.step()
			}
		}
		m.startUp()
		for i := range rapid.SampledFrom([]int{20, 80, 300}).Draw(t, "steps") {
			m.step()
			if i%40 == 39 {
				m.checkAll()
			}
		}
		for m.w.claimed >= 0 {
			m.w.rebuild()
		}
		for i := range m.w.members {
			m.answerRaise(i, m.w.clock)
		}
		for i := range m.w.members {
			m.deliver(i, 1<<30)
		}
		m.w.finishDecided(m.w.clock)
		for i := range m.w.members {
			m.deliver(i, 1<<30)
		}
		require.Equal(t, m.w.clock, m.closed, "everything is fenced, so everything is closed")
		m.checkState()
		m.checkAll()
	})
}
