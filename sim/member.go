package main

// Member is an etcd that stores part of the keys: the records of docs/architecture/ordering.md, and its log.
type Member struct {
	id        int
	epoch, F  int64
	clock     Clock
	slots     [maxKeys]int64 // clocks
	lock      [maxKeys]int64 // who has locked the slot, or 0
	lockPrim  [maxKeys]int   // the primary of who did
	whole     int64          // who has locked all of it, or 0
	wholePrim int
	keys      State
	decisions map[int64]*Decision // of transactions whose primary it is
	log       []Revision
	compacted int // the first of its revisions that can be read
}

// Revision is one of the member's own revisions.
type Revision struct {
	// What a stream of the reserved range shows.
	record    bool // anything at all
	manifests []Manifest
	fence     bool // it raised the fence, to F
	epoch, F  int64
	locks     []Lock         // behind it
	lockBy    [maxKeys]int64 // behind it
	wholeBy   int64          // behind it

	// What other streams show, and reads of the past.
	evs   []Event
	clock Clock // behind it
	keys  State // behind it

	foreign bool // not metaetcd's
}

// revision begins a revision.
func (m *Member) revision() Revision { return Revision{epoch: m.epoch, F: m.F} }

// recorded begins a revision that writes a reserved record of another kind than a manifest: a fence, a lock, a slot.
func (m *Member) recorded() Revision {
	rv := m.revision()
	rv.record = true
	return rv
}

// nextRevision is the number that the next one gets.
func (m *Member) nextRevision() int { return len(m.log) + 1 }

// commit appends a revision. Every one shows the locks behind it.
func (m *Member) commit(rv Revision) {
	rv.locks, rv.lockBy, rv.wholeBy = m.locks(), m.lock, m.whole
	rv.clock, rv.keys = m.clock, m.keys
	m.log = append(m.log, rv)
}

// store writes one key, and gives the event as the stream shows it.
func (m *Member) store(e Event, rev int) Event {
	o := m.keys[e.key]
	if e.del {
		m.keys[e.key] = KV{}
		return e
	}
	e.kv.ver = o.ver + 1
	e.kv.nmod = rev
	e.kv.ncreate = o.ncreate
	if o.ver == 0 {
		e.kv.ncreate = rev
	}
	m.keys[e.key] = e.kv
	return e
}

// landedAt notes that an operation landed, or another part of it.
func (w *World) landedAt(op *Op, T int64, evs []Event, first bool) {
	op.evs = append(op.evs, evs...)
	if !first {
		return
	}
	op.landed++
	if op.landed > 1 {
		w.fail("op %d applied twice", op.id)
	}
	if o := w.byStamp[T]; o != nil && o != op {
		w.fail("stamp %d landed twice (ops %d, %d)", T, o.id, op.id)
	}
	w.byStamp[T] = op
	op.T = T
	w.landed = append(w.landed, op)
	for _, p := range w.procs {
		if p.ready && T <= p.W {
			w.fail("stamp %d (op %d) lands, but p%d closed W=%d", T, op.id, p.id, p.W)
		}
	}
}
