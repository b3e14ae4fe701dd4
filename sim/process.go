package main

// Process is a process that uses the meta cluster, with all that it knows. What is in it goes when it crashes.
type Process struct {
	w  *World
	id int
	up bool

	epoch      int64
	rebuilding bool

	// The merged log.
	ready     bool // it has started
	streams   []*Stream
	marks     map[int64]*Seen   // by stamp
	evs       map[int64][]Event // by stamp
	need, got map[int64]int     // parts, by stamp
	W, C0     int64             // closed, and where the log begins
	released  []Event

	// The lanes.
	queue [][]*Queued  // by member
	busy  map[int]bool // slots of what is on its way

	tasks []*Task
}

// newProcess starts a process, with its clients.
func (w *World) newProcess() {
	p := &Process{
		w: w, id: len(w.procs), up: true, epoch: 1, marks: map[int64]*Seen{}, evs: map[int64][]Event{}, need: map[int64]int{},
		got: map[int64]int{}, queue: make([][]*Queued, len(w.members)), busy: map[int]bool{},
	}
	for _, m := range w.members {
		p.streams = append(p.streams, &Stream{m: m, pos: -1})
	}
	w.procs = append(w.procs, p)
	w.spawn(p, false, func(t *Task) { t.start() })
	if w.cross > 0 {
		w.spawn(p, false, func(t *Task) { t.resolver() })
	}
	for mi := range w.members {
		for range 2 {
			w.spawn(p, false, func(t *Task) { t.lane(mi) })
		}
	}
	for range 1 + w.rng.Intn(3) {
		n := 1 + w.rng.Intn(8*w.size)
		w.spawn(p, true, func(t *Task) { t.runClient(n) })
	}
}

func (t *Task) runClient(n int) {
	w, p := t.w, t.p
	t.wait(false, func() bool { return p.ready })
	for range n {
		op := w.genOp(p)
		op.start = w.step
		if w.trace {
			w.log("p%d op%d START %s", p.id, op.id, op)
		}
		switch {
		case op.read != noRead:
			t.readOp(op)
		case op.cross:
			t.crossOp(op)
		default:
			t.writeOp(op)
		}
	}
}

// finish answers an operation.
func (t *Task) finish(op *Op, rev int64, ans []int64) {
	op.end, op.rev, op.ans, op.done = t.w.step, rev, ans, true
	t.w.log("p%d op%d DONE rev=%d ans=%v", t.p.id, op.id, rev, ans)
}
