package main

// Decision is the record that makes the parts of a transaction sure: it lies on the primary, with all that is needed to land them.
type Decision struct {
	id, T, epoch int64
	W            int64   // its manifests': the writer's
	shares       []Share // the primary's is the first
	parts        [][]Event
	op           *Op
}

// Part says which part of a stamp a revision brought, and how many there are.
type Part struct {
	T    int64
	i, n int
}

var (
	decideNeedsLocks     = newRule("awDecide", "a decision demands that the primary's locks are held")
	decisionsRaiseClock  = newRule("awDecClk", "a decision raises clock")
	partsRaiseClock      = newRule("xPartClk", "the other parts raise clock, too")
	wholePartsRaiseFence = newRule("xWholeFence", "a part on a whole member raises its fence")
)

// decide lands the primary's part, and the record that makes the others sure.
func (w *World) decide(m *Member, epoch int64, d *Decision) any {
	if m.epoch != epoch {
		return LockReply{st: wrongEpoch}
	}
	held := m.holdsLocks(d.id, d.shares[0])
	if m.F >= d.T || !held && w.holds(decideNeedsLocks) {
		return w.refuseDecision(m, d, held)
	}
	if len(d.shares) > 1 {
		m.decisions[d.id] = d
	}
	w.landPart(m, d, 0)
	return LockReply{}
}

func (w *World) refuseDecision(m *Member, d *Decision, held bool) any {
	rv := m.revision()
	w.note(m, &rv, Manifest{W: d.W, entries: []Entry{{T: d.T}}}, w.holds(refusalsRaiseClock))
	m.commit(rv)
	if held {
		return LockReply{st: refused}
	}
	return LockReply{st: locksLost}
}

// apply lands another part, once.
func (w *World) apply(m *Member, d *Decision, i int) any {
	if m.holdsLocks(d.id, d.shares[i]) {
		w.landPart(m, d, i)
	}
	return LockReply{}
}

// landPart lands part i: events, locks, mark.
func (w *World) landPart(m *Member, d *Decision, i int) {
	rev, first := m.nextRevision(), i == 0
	rv := m.recorded()
	for _, e := range d.parts[i] {
		rv.evs = append(rv.evs, m.store(e, rev))
	}
	sh := d.shares[i]
	if sh.whole {
		m.whole = 0
		if m.epoch == d.epoch && m.F < d.T && w.holds(wholePartsRaiseFence) {
			m.F = d.T
			rv.F, rv.fence = d.T, true
		}
	}
	for _, s := range sh.slots {
		m.lock[s], m.slots[s] = 0, d.T
	}
	e := Entry{T: d.T, landed: true, part: &Part{d.T, i, len(d.shares)}, touches: w.touchesOf(d.parts[i])}
	w.note(m, &rv, Manifest{W: d.W, entries: []Entry{e}}, first && w.holds(decisionsRaiseClock) || !first && w.holds(partsRaiseClock))
	w.landedAt(d.op, d.T, rv.evs, first)
	m.commit(rv)
}
