package mergedlog

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

const infinite = int64(math.MaxInt64) // the clock of a locked slot

// crossing is a transaction across members of the world: what it has locked, and once it is decided, what is to land.
type crossing struct {
	holder record.Holder
	shares []*worldShare
	stamp  int64 // 0: not decided
	epoch  int64
	ops    int // how many the parts have named
}

type worldShare struct {
	m      *worldMember
	whole  bool
	slots  []int // first keys, that is 0 or 2
	clocks []int64
	rounds int // parts
	at     int // how many of them have landed
	put    map[string]bool
}

func (s *worldShare) landed() bool { return s.at == s.rounds }

// cross goes one step ahead with some transaction across members.
func (w *world) cross() {
	if len(w.crossings) == 0 || w.draw(4) == 0 {
		w.lock()
		return
	}
	i := w.draw(len(w.crossings))
	x := w.crossings[i]
	switch {
	case x.stamp > 0:
		w.landPart(x, x.shares[w.draw(len(x.shares))])
	case w.draw(5) == 0:
		for _, s := range x.shares {
			if s.whole || w.draw(2) == 0 {
				w.unlock(s)
			} else {
				w.abort(s)
			}
		}
		w.crossings = slices.Delete(w.crossings, i, i+1)
	default:
		w.decide(x)
	}
}

// lock begins a transaction on what is free.
func (w *world) lock() {
	x := &crossing{holder: record.Holder{ID: record.NewTxnID()}}
	for _, m := range w.members {
		s := &worldShare{m: m, whole: w.draw(3) == 0, rounds: 1 + w.draw(4)/2, put: map[string]bool{}}
		for _, i := range []int{0, 2} {
			if !s.whole && w.draw(2) == 0 {
				s.slots = append(s.slots, i)
			}
		}
		free := m.holder == nil && !slices.ContainsFunc(s.slots, func(i int) bool { return m.slots[w.slotAt(m, i)] == infinite })
		free = free && (!s.whole || !m.slotLocked())
		if !free || !s.whole && len(s.slots) == 0 {
			continue
		}
		if len(x.shares) == 0 {
			x.holder.Primary = m.id
		}
		t := m.begin()
		if s.whole {
			t.lockMember(&x.holder)
		}
		for _, i := range s.slots {
			slot := w.slotAt(m, i)
			s.clocks = append(s.clocks, m.slots[slot])
			t.lockSlot(slot, infinite, x.holder.Value())
			t.rev.locks[slot] = x.holder
		}
		t.commit(w)
		x.shares = append(x.shares, s)
	}
	if len(x.shares) > 0 {
		w.crossings = append(w.crossings, x)
	}
}

func (w *world) slotAt(m *worldMember, i int) int { return worldSlot([]byte(w.key(m.id, i))) }

func (m *worldMember) slotLocked() bool {
	for _, clock := range m.slots {
		if clock == infinite {
			return true
		}
	}
	return false
}

// unlock gives back what was found, as the writer does.
func (w *world) unlock(s *worldShare) {
	t := s.m.begin()
	if s.whole {
		t.lockMember(nil)
	}
	for j, i := range s.slots {
		slot := w.slotAt(s.m, i)
		t.lockSlot(slot, s.clocks[j], record.Number(s.clocks[j]))
		delete(t.rev.locks, slot)
	}
	t.commit(w)
}

// abort takes slots from a transaction whose writer has gone, at a new stamp.
func (w *world) abort(s *worldShare) {
	if w.claimed >= 0 {
		w.unlock(s)
		return
	}
	w.clock++
	t := s.m.begin()
	for _, i := range s.slots {
		slot := w.slotAt(s.m, i)
		t.slot(slot, w.clock)
		t.mark(w.clock, manifest.Taken)
		delete(t.rev.locks, slot)
	}
	t.commit(w)
}

// decide takes a stamp and lands the primary's part, unless the coordinator is away.
func (w *world) decide(x *crossing) {
	if w.claimed >= 0 {
		return
	}
	w.clock++
	f := flight{w.epoch, w.clock}
	primary := x.shares[0]
	if w.onSend != nil {
		w.onSend(primary.m.id, f, nil)
	}
	if w.draw(4) == 0 { // a fence is faster
		w.raise(primary.m, w.epoch, f.stamp)
		t := primary.m.begin()
		t.mark(f.stamp, manifest.Fenced)
		t.commit(w)
		return
	}
	x.stamp, x.epoch = f.stamp, f.epoch
	w.landPart(x, primary)
}

// landPart lands the next part of a share, whatever the epoch and the fence are. The last one gives up the locks.
func (w *world) landPart(x *crossing, s *worldShare) {
	if s.landed() {
		return
	}
	t := s.m.begin()
	t.parted = &worldPart{stamp: x.stamp, ops: map[string]int{}}
	for _, o := range x.shares {
		if o == s {
			t.parted.Index = t.parted.Of() + o.at
		}
		t.parted.Shares = append(t.parted.Shares, manifest.Share{Member: o.m.id + 1, Parts: o.rounds})
	}
	s.at++
	firsts := s.slots
	if s.whole {
		firsts = []int{0, 2}
	}
	w.partOps(x, s, t, firsts)
	w.passLocks(x, s, t)
	t.mark(x.stamp, manifest.Parted)
	t.commit(w)
	if !slices.ContainsFunc(x.shares, func(s *worldShare) bool { return !s.landed() }) {
		w.crossings = slices.DeleteFunc(w.crossings, func(o *crossing) bool { return o == x })
	}
}

// passLocks gives up the locks, or leaves them to the next part.
func (w *world) passLocks(x *crossing, s *worldShare, t *worldTxn) {
	next := x.holder.At(s.at)
	switch {
	case !s.whole:
	case !s.landed():
		t.lockMember(&next)
	default:
		t.lockMember(nil)
		if s.m.state.Epoch == x.epoch && s.m.state.Fence < x.stamp {
			t.fence(x.epoch, x.stamp)
		}
	}
	for _, i := range s.slots {
		slot := w.slotAt(s.m, i)
		if s.landed() {
			t.slot(slot, x.stamp)
			delete(t.rev.locks, slot)
		} else {
			t.lockSlot(slot, infinite, next.Value())
			t.rev.locks[slot] = next
		}
	}
}

// partOps writes on the keys of some slots. An operation belongs to one part, or is a range delete that the last parts of all
// members have. A key is put once at most, and never put and deleted by one part.
func (w *world) partOps(x *crossing, s *worldShare, t *worldTxn, firsts []int) {
	all := 1000 // the last operation of every transaction: it deletes what is left to delete
	for _, i := range firsts {
		a, b := w.key(t.m.id, i), w.key(t.m.id, i+1)
		switch w.draw(4) {
		case 0:
			w.partPut(x, s, t, a)
			w.partOp(x, t, func() { t.del(b, x.stamp) })
		case 1:
			w.partPut(x, s, t, b)
			w.partPut(x, s, t, a)
		}
	}
	if !s.landed() || w.draw(2) > 0 {
		return
	}
	if t.parted.op = all; len(firsts) == keysPerMember/2 {
		t.delRange(w, x.stamp)
		return
	}
	for i := range keysPerMember {
		if key := w.key(t.m.id, i); slices.Contains(firsts, i&^1) && !t.touched(key) {
			t.del(key, x.stamp)
		}
	}
}

// partPut puts a key, or deletes it if the transaction has put it.
func (w *world) partPut(x *crossing, s *worldShare, t *worldTxn, key string) {
	w.partOp(x, t, func() {
		if s.put[key] {
			t.del(key, x.stamp)
			return
		}
		t.put(w, key, x.stamp)
		s.put[key] = true
	})
}

func (w *world) partOp(x *crossing, t *worldTxn, do func()) {
	x.ops += 1 + w.draw(3) // others' operations are in between
	t.parted.op = x.ops
	do()
}

func (t *worldTxn) touched(key string) bool {
	return slices.ContainsFunc(t.rev.events, func(e *mvccpb.Event) bool { return string(e.Kv.Key) == key })
}

func (t *worldTxn) lockSlot(slot int, clock int64, value []byte) {
	t.m.slots[slot] = clock
	t.record(record.SlotKey(slot), value)
}

func (t *worldTxn) lockMember(h *record.Holder) {
	t.m.holder = h
	if h == nil {
		t.record([]byte(record.KeyLock), nil)
		delete(t.rev.locks, Whole)
		return
	}
	t.record([]byte(record.KeyLock), h.Value())
	t.rev.locks[Whole] = *h
}

// orders gives the events of a part the places of their operations.
func (t *worldTxn) orders() {
	for i := range t.rev.evs {
		e := &t.rev.evs[i]
		e.order, e.parted = t.parted.ops[string(e.kv.Key)], true
	}
}

// finishDecided lands what is missing of the transactions that were decided up to c, as a starting process does.
func (w *world) finishDecided(c int64) {
	for _, x := range slices.Clone(w.crossings) {
		if x.stamp > 0 && x.stamp <= c {
			for _, s := range x.shares {
				for !s.landed() {
					w.landPart(x, s)
				}
			}
		}
	}
}

// heldAt are a member's locks at a member revision.
func (m *worldMember) heldAt(rev int64) map[int]record.Holder {
	if rev == 0 {
		return nil
	}
	return m.history[rev-1].locks
}

func (m *worldMember) held() (out []Lock) {
	for slot, h := range m.heldAt(m.state.Rev) {
		out = append(out, Lock{Member: m.id, Slot: slot, Held: true, Holder: h})
	}
	return out
}

func lockStrings(ls []Lock) (out []string) {
	for _, l := range ls {
		out = append(out, fmt.Sprintf("%d/%d by %x of %d in round %d held=%v", l.Member, l.Slot, l.ID, l.Primary, l.Round, l.Held))
	}
	slices.Sort(out)
	return out
}

// locksSeen are the locks where the streams stand.
func (m *model) locksSeen() (out []Lock) {
	for i, wm := range m.w.members {
		for slot, h := range wm.heldAt(m.at[i].Rev) {
			out = append(out, Lock{Member: i, Slot: slot, Held: true, Holder: h})
		}
	}
	return out
}

// partial says that some parts of a stamp were delivered, but not all.
func (m *model) partial(stamp int64) bool {
	p := m.parts[stamp]
	return p != nil && slices.Contains(p, false)
}

// notePart takes the mark of a part.
func (m *model) notePart(p *worldPart) {
	if p == nil {
		return
	}
	if m.parts[p.stamp] == nil {
		m.parts[p.stamp] = make([]bool, p.Of())
	}
	m.parts[p.stamp][p.Index] = true
}

func cloneLocks(m *worldMember) map[int]record.Holder {
	if ls := m.heldAt(m.state.Rev); ls != nil {
		return maps.Clone(ls)
	}
	return map[int]record.Holder{}
}

// shuffle puts records in front of users' keys, or leaves them behind. The events of keys stay in the order of the operations.
func (t *worldTxn) shuffle(w *world) {
	if w.draw(2) > 0 {
		return
	}
	slices.SortStableFunc(t.rev.events, func(a, b *mvccpb.Event) int { return min(int(a.Kv.Key[0]), 1) - min(int(b.Kv.Key[0]), 1) })
}
