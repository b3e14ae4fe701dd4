package mergedlog

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"
)

// model is the naive counterpart of a log: it looks at everything from the beginning, every time.
type model struct {
	t     *rapid.T
	w     *world
	log   *Log
	tight bool // the log may have evicted

	opened    []int64 // member revision; -1: not open
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
	m.w.onSend = func(member int, f flight, _ *pb.TxnRequest) {
		if m.opened[member] >= 0 && m.w.draw(3) == 0 {
			m.log.cfg.Doubts.Track(member, f.epoch, Sent{Stamp: f.stamp})
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

func (m *model) outcome(d modelDoubt) (Outcome, bool) {
	at := m.at[d.member]
	for _, r := range m.w.members[d.member].history[m.opened[d.member]:at.Rev] {
		for _, mk := range r.marks {
			if mk.stamp == d.stamp && r.before.Epoch == d.epoch {
				o := Outcome{Kind: Refused, Reason: mk.kind, Rev: r.after.Rev}
				if mk.kind.Landed() {
					o.Kind = Landed
				}
				return o, true
			}
		}
	}
	return Outcome{Kind: Dead}, at.Fence >= d.stamp || at.Epoch > d.epoch
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
