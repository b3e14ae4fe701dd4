package main

var (
	epochGuardsBatches  = newRule("noEpoch", "a batch names the epoch of its stamps, and lands in no other")
	fencesRefuse        = newRule("noFence", "no stamp at or below the fence lands")
	wholeLocksRefuse    = newRule("xWholeLock", "no batch lands on a member that is locked as a whole")
	exclusiveNeedsFree  = newRule("awExclLock", "an exclusive operation lands only where no slot is locked")
	fencedReadsAreAbove = newRule("awFb", "a fenced read has a stamp above that of the key")
	refusalsRaiseClock  = newRule("awClkRef", "a stamp that is refused raises clock, too")
)

// Pin is the state of a key that an operation counts on.
type Pin struct {
	key, n int
	create bool // n is the revision of its creation, and the stamp decides
}

// Guarded is an operation with its stamp and its guard, as a batch carries it.
type Guarded struct {
	op    *Op
	T     int64
	slots []int
	pins  []Pin
	evs   []Event
	mark  []int // slots whose clocks it sets
	excl  bool
}

// BatchReply is the answer to a batch.
type BatchReply struct {
	wrong bool // epoch
	epoch int64
	outs  []Outcome
}

// batch lands what its guards let land. The guards see the state before all of it.
func (w *World) batch(m *Member, epoch int64, ops []*Guarded) any {
	if m.epoch != epoch && w.holds(epochGuardsBatches) {
		return BatchReply{wrong: true, epoch: m.epoch}
	}
	rep := BatchReply{}
	rv, before := m.revision(), *m
	for _, o := range ops {
		out := Outcome{T: o.T, epoch: epoch}
		ok := w.guardHolds(&before, o)
		rv.marks = append(rv.marks, Mark{o.T, ok})
		switch {
		case !ok:
			out.st = refused
			if w.holds(refusalsRaiseClock) {
				m.raiseClock(o.T)
			}
		case o.op.read == fencedRead:
			out.ans = w.landFencedRead(m, &before, o)
		default:
			out.ans = w.landWrite(m, &before, o, &rv)
		}
		rep.outs = append(rep.outs, out)
	}
	m.commit(rv)
	return rep
}

// guardHolds tells whether a guard lets its operation land.
func (w *World) guardHolds(m *Member, o *Guarded) bool {
	if m.F >= o.T && w.holds(fencesRefuse) || m.whole != 0 && w.holds(wholeLocksRefuse) {
		return false
	}
	if o.excl { // the clock and the locks say it all
		return m.clk < o.T && (!m.slotsLocked() || !w.holds(exclusiveNeedsFree))
	}
	for _, s := range o.slots {
		if m.slots[s] >= o.T || m.lock[s] != 0 {
			return false
		}
	}
	for _, p := range o.pins {
		if kv := &m.keys[p.key]; !kv.fits(p, o.T) {
			return false
		}
	}
	return o.op.read != fencedRead || m.keys[o.op.rkey].stamp < o.T || !w.holds(fencedReadsAreAbove)
}

// fits tells whether a key is as it was pinned.
func (kv *KV) fits(p Pin, T int64) bool {
	if p.create {
		return kv.ncreate == p.n && kv.stamp < T
	}
	return kv.nmod == p.n
}

func (w *World) landFencedRead(m, before *Member, o *Guarded) []int64 {
	m.setClocks(o.mark, o.T)
	m.raiseClock(o.T)
	for _, p := range w.procs {
		if p.ready && o.T <= p.W {
			w.fail("fenced read stamp %d lands, p%d closed W=%d", o.T, p.id, p.W)
		}
	}
	return before.keys[o.op.rkey].encode()
}

func (w *World) landWrite(m, before *Member, o *Guarded, rv *Revision) []int64 {
	evs, ans := o.op.try(before.keys, o.T)
	if o.excl {
		m.F = o.T
		rv.F, rv.fence = o.T, true
	} else {
		evs = o.evs
	}
	var done []Event
	for _, e := range evs {
		if e.del && m.keys[e.key].ver == 0 {
			continue
		}
		done = append(done, m.store(e, m.nextRevision()))
	}
	m.setClocks(o.mark, o.T)
	rv.evs = append(rv.evs, done...)
	w.landedAt(o.op, o.T, done, true)
	m.raiseClock(o.T)
	return ans
}

func (m *Member) setClocks(slots []int, T int64) {
	for _, s := range slots {
		m.slots[s] = T
	}
}
