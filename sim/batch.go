package main

import "slices"

var (
	epochGuardsBatches  = newRule("noEpoch", "a batch names the epoch of its stamps, and lands in no other")
	fencesRefuse        = newRule("noFence", "no stamp at or below the fence lands")
	wholeLocksRefuse    = newRule("xWholeLock", "no batch lands on a member that is locked as a whole")
	exclusiveNeedsFree  = newRule("awExclLock", "an exclusive operation lands only where no slot is locked")
	fencedReadsAreAbove = newRule("awFb", "a fenced read has a stamp above that of the key")
	refusalsRaiseClock  = newRule("awClkRef", "a stamp that is refused raises clock, too")
	outerNamesCertain   = newRule("mOuter", "an outer manifest names only stamps whose outcome is certain; what is decided inside has its own record (A1)")
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
	exact Keys  // those of its keys whose last change is pinned, so that their versions are known
	mark  []int // slots whose clocks it sets
	excl  bool
}

// entry is what a manifest says of an operation, if it lands.
func (w *World) entry(o *Guarded) Entry {
	e := Entry{T: o.T, landed: true}
	switch {
	case o.excl: // evaluated where it lands: it may write any of its keys
		e.touches = []Touch{{among: keysOf(o.op.keys()...)}}
	case o.op.read == noRead:
		e.touches = w.touchesOf(o.evs)
	}
	return e
}

// Batch is a member transaction.
type Batch struct {
	ops      []*Guarded
	W        int64 // the process's
	gone     []int64
	together bool // it lands whole or not at all
}

// BatchReply is the answer to a batch.
type BatchReply struct {
	wrong bool // epoch
	epoch int64
	at    int // the revision that it made
	outs  []Outcome
}

// batch lands what its guards let land. The guards see the state before all of it.
func (w *World) batch(m *Member, epoch int64, b *Batch) any {
	if m.epoch != epoch && w.holds(epochGuardsBatches) {
		return BatchReply{wrong: true, epoch: m.epoch}
	}
	if b.together {
		return w.landTogether(m, epoch, b)
	}
	return w.landEach(m, epoch, b)
}

// landTogether lands all operations with one manifest, or none: then nothing is written.
func (w *World) landTogether(m *Member, epoch int64, b *Batch) BatchReply {
	before, rep := *m, BatchReply{}
	if slices.ContainsFunc(b.ops, func(o *Guarded) bool { return !w.guardHolds(&before, o) }) {
		for _, o := range b.ops {
			rep.outs = append(rep.outs, Outcome{T: o.T, epoch: epoch, st: refused})
		}
		return rep
	}
	rv, mf := m.revision(), Manifest{W: b.W, entries: surrendered(b.gone)}
	for _, o := range b.ops {
		rep.outs = append(rep.outs, w.land(m, &before, o, &rv, epoch))
		mf.entries = append(mf.entries, w.entry(o))
	}
	w.note(m, &rv, mf, true)
	m.commit(rv)
	rep.at = len(m.log)
	return rep
}

// landEach lands each operation by itself, or refuses it: its own record says which.
func (w *World) landEach(m *Member, epoch int64, b *Batch) BatchReply {
	rv, before, rep := m.revision(), *m, BatchReply{}
	outer := Manifest{W: b.W, entries: surrendered(b.gone)}
	for i, o := range b.ops {
		e, out := Entry{T: o.T}, Outcome{T: o.T, epoch: epoch, st: refused}
		ok := w.guardHolds(&before, o)
		if ok {
			out = w.land(m, &before, o, &rv, epoch)
		}
		if ok || !w.holds(outerNamesCertain) {
			e = w.entry(o)
		}
		rep.outs = append(rep.outs, out)
		if w.holds(outerNamesCertain) {
			w.note(m, &rv, Manifest{name: i + 1, W: b.W, entries: []Entry{e}}, ok || w.holds(refusalsRaiseClock))
		} else {
			outer.entries = append(outer.entries, e)
		}
	}
	w.note(m, &rv, outer, true)
	m.commit(rv)
	rep.at = len(m.log)
	return rep
}

func surrendered(stamps []int64) (es []Entry) {
	for _, T := range stamps {
		es = append(es, Entry{T: T})
	}
	return es
}

// guardHolds tells whether a guard lets its operation land.
func (w *World) guardHolds(m *Member, o *Guarded) bool {
	if m.F >= o.T && w.holds(fencesRefuse) || m.whole != 0 && w.holds(wholeLocksRefuse) {
		return false
	}
	if o.excl { // the clock and the locks say it all
		return m.clock.max < o.T && (!m.slotsLocked() || !w.holds(exclusiveNeedsFree))
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

// land lands an operation in a revision.
func (w *World) land(m, before *Member, o *Guarded, rv *Revision, epoch int64) Outcome {
	out := Outcome{T: o.T, epoch: epoch}
	if o.op.read == fencedRead {
		out.ans = w.landFencedRead(m, before, o)
		rv.record = true
		return out
	}
	out.ans = w.landWrite(m, before, o, rv)
	return out
}

func (w *World) landFencedRead(m, before *Member, o *Guarded) []int64 {
	m.setClocks(o.mark, o.T)
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
		rv.F, rv.fence, rv.record = o.T, true, true
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
	rv.record = rv.record || len(o.mark) > 0
	rv.evs = append(rv.evs, done...)
	w.landedAt(o.op, o.T, done, true)
	return ans
}

func (m *Member) setClocks(slots []int, T int64) {
	for _, s := range slots {
		m.slots[s] = T
	}
}
