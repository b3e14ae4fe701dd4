package main

// Process is a process that uses the meta cluster, with all that it knows. What is in it goes when it crashes.
type Process struct {
	w  *World
	id int
	up bool

	epoch      int64
	rebuilding bool
	halted     bool // it met a foreign write: it stops

	// The merged log.
	ready     bool // it has started
	streams   []*Stream
	marks     map[int64]*Seen   // by stamp
	places    map[int64][]Place // by stamp
	need, got map[int64]int     // parts, by stamp
	W, C0     int64             // closed, and where the log begins

	// The events of what is watched.
	style    style
	hull     bool // one source for all keys of a member, whatever is watched of it
	watchers []*Watcher
	covered  [maxKeys]int64    // the stamps from which the log has the events of the keys; 0: it has not
	evs      map[int64][]Event // by stamp
	arrived  map[arrival]bool
	replays  []*Conn
	bound    int64             // on the events that wait above W; 0: none
	gone     map[place][]int64 // the stamps of a revision whose events were let go

	// The state cache.
	cache   [maxKeys]Known
	touched [maxKeys]int   // the last revision that touched a key
	own     map[arrival]KV // what this process has written

	// The lanes.
	queue [][]*Queued  // by member
	busy  map[int]bool // slots of what is on its way

	tasks []*Task
}

// style is what a process watches.
type style int

const (
	watchesNothing style = iota
	watchesOne           // key at a time
	watchesAll
	watchesSome
	numStyles
)

func (w *World) genStyle() style {
	if w.watchful {
		return style(1 + w.rng.Intn(int(numStyles)-1))
	}
	return style(w.rng.Intn(int(numStyles)))
}

func (w *World) genBound() int64 {
	if w.watchful {
		return w.rng.Int63n(3)
	}
	return max(0, w.rng.Int63n(6)-2)
}

// newProcess starts a process, with its clients.
func (w *World) newProcess() {
	p := &Process{
		w: w, id: len(w.procs), up: true, epoch: 1, marks: map[int64]*Seen{}, places: map[int64][]Place{}, evs: map[int64][]Event{},
		need: map[int64]int{}, got: map[int64]int{}, arrived: map[arrival]bool{}, gone: map[place][]int64{}, own: map[arrival]KV{}, queue: make([][]*Queued, len(w.members)), busy: map[int]bool{},
		style: w.genStyle(), hull: w.coin(0.2), bound: w.genBound(),
	}
	for _, m := range w.members {
		p.streams = append(p.streams, &Stream{m: m, pos: -1, conn: &Conn{m: m}})
	}
	w.procs = append(w.procs, p)
	w.spawn(p, false, func(t *Task) { t.start() })
	if w.cross > 0 {
		w.spawn(p, false, func(t *Task) { t.resolver() })
	}
	w.spawn(p, false, func(t *Task) { t.prober() })
	if p.style != watchesNothing {
		for _, s := range p.streams {
			w.spawn(p, false, func(t *Task) { t.follow(s) })
		}
		for range 1 + w.rng.Intn(4) {
			w.spawn(p, false, func(t *Task) { t.watching() })
		}
		w.spawn(p, false, func(t *Task) { t.refill() })
	}
	for mi := range w.members {
		for range 2 {
			w.spawn(p, false, func(t *Task) { t.lane(mi) })
		}
	}
	for range 1 + w.rng.Intn(w.clients) {
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
