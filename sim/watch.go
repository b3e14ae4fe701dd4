package main

import (
	"slices"
	"sort"
)

// Watcher is a user's: it gets every event of its keys from a stamp on, in the order of stamps and of the operations of each.
type Watcher struct {
	keys        Keys
	first, next int64 // it has all in [first, next)
	joined      bool
	ended       bool
	got         []Event
}

var (
	eventsKeepOrder      = newRule("mOrder", "the events of a stamp are released in the order of its operations (A3)")
	rangesNeedProof      = newRule("mProof", "events of ranges, which manifests do not name, have come when their source is complete (A4)")
	joinsBehindHistory   = newRule("mJoin", "a watcher joins when history is read up to the last revision with a stamp below its coverage (A18)")
	joinsWhenClosed      = newRule("mJoinW", "a watcher joins once W has reached what its history must have (A18)")
	createdProvesNothing = newRule("mCreated", "Created proves nothing of a watcher of the past (A4)")
	replaysAsk           = newRule("mReplay", "a replay ends by an event at or behind its target, or by progress asked on its own stream (A7)")
)

// watching opens and ends watchers, for as long as there are faults.
func (t *Task) watching() {
	w, p := t.w, t.p
	t.wait(false, func() bool { return p.ready })
	for !w.fair {
		wt := &Watcher{keys: w.genKeys(p)}
		wt.first = max(p.C0+1, p.W+1-w.rng.Int63n(30))
		wt.next = wt.first
		p.watchers = append(p.watchers, wt)
		t.join(wt)
		for range w.rng.Intn(3) {
			t.idle()
		}
		if w.coin(0.7) {
			wt.ended = true
		}
	}
}

// genKeys are what a watcher of the process watches: one key, or all, or some.
func (w *World) genKeys(p *Process) (keys Keys) {
	switch p.style {
	case watchesOne:
		return keysOf(w.rng.Intn(w.keys))
	case watchesAll:
		return w.allKeys()
	}
	for keys == 0 {
		keys = Keys(w.rng.Intn(1 << w.keys))
	}
	return keys
}

// join reads what a watcher wants of the past, up to where the log has its keys.
func (t *Task) join(wt *Watcher) {
	w, p := t.w, t.p
	for {
		t.wait(false, func() bool { return wt.ended || p.coveredFrom(wt.keys) > 0 })
		from := p.coveredFrom(wt.keys)
		if w.holds(joinsWhenClosed) {
			t.closed(from-1, false)
		}
		if wt.ended || !t.readUpTo(wt, from) {
			return
		}
		if now := p.coveredFrom(wt.keys); now == from || !w.holds(lostIsUncovered) {
			break
		}
	}
	wt.joined = true
	p.pump()
}

// readUpTo brings a watcher what is below a stamp from the members' history.
func (t *Task) readUpTo(wt *Watcher, from int64) bool {
	w, p := t.w, t.p
	var evs []Event
	for _, s := range p.streams {
		if keys := w.on(s.m.id, wt.keys); keys != 0 && wt.next < from {
			some, ok := t.readPast(s, keys, s.lo(wt.next-1), p.historyEnd(s, from-1))
			if !ok {
				p.lose(wt)
				return false
			}
			evs = append(evs, some...)
		}
	}
	evs = slices.DeleteFunc(evs, func(e Event) bool { return e.T < wt.next || e.T >= from })
	wt.got = append(wt.got, p.inOrder(evs)...)
	wt.next = max(wt.next, from)
	return true
}

// historyEnd is up to which revision history has to be read.
func (p *Process) historyEnd(s *Stream, R int64) int {
	if p.w.holds(joinsBehindHistory) {
		return s.hi(R)
	}
	n := len(s.sources)
	return s.sources[n-1].from - 1
}

// coveredFrom is the stamp from which the log has the events of keys; 0: it has not.
func (p *Process) coveredFrom(keys Keys) (from int64) {
	for k := range keys.each {
		if p.covered[k] == 0 {
			return 0
		}
		from = max(from, p.covered[k])
	}
	return from
}

// readPast reads the events of keys in the revisions (lo, hi] of a member, by a native watcher on a stream of its own. Not ok: they
// are compacted.
func (t *Task) readPast(s *Stream, keys Keys, lo, hi int) (evs []Event, ok bool) {
	w, p := t.w, t.p
	if lo >= hi {
		return nil, true
	}
	src, c := &Source{}, &Conn{m: s.m}
	src.nat = c.watch(&Native{keys: keys, start: lo + 1, take: func(r Response) {
		src.dead = src.dead || r.compacted > 0
		src.take(p, r)
	}})
	p.replays = append(p.replays, c)
	for !t.wait(true, func() bool { return src.complete >= hi || src.dead }) {
		c.asked = w.holds(replaysAsk)
	}
	p.replays = slices.DeleteFunc(p.replays, func(o *Conn) bool { return o == c })
	if src.complete < hi {
		return nil, false
	}
	for _, r := range src.waiting {
		for _, e := range r.evs {
			if r.rev <= hi {
				evs = append(evs, p.stamped(s, r.rev, e))
			}
		}
	}
	return evs, true
}

// pump gives the watchers that have joined what is closed and has come.
func (p *Process) pump() {
	for _, wt := range p.watchers {
		for wt.joined && !wt.ended && wt.next <= p.W && p.hasCome(wt, wt.next) {
			wt.got = append(wt.got, p.inOrder(slices.DeleteFunc(slices.Clone(p.evs[wt.next]), func(e Event) bool { return !wt.keys.has(e.key) }))...)
			wt.next++
		}
	}
}

// hasCome tells whether all events of a stamp have come that a watcher wants.
func (p *Process) hasCome(wt *Watcher, T int64) bool {
	for _, pl := range p.places[T] {
		for _, t := range pl.e.touches {
			if p.w.on(pl.s.m.id, t.among)&wt.keys == 0 {
				continue
			}
			if p.isGone(place{pl.s, pl.rev}, T) {
				return false
			}
			if src := pl.s.sourceAt(pl.rev); src != nil && src.complete >= pl.rev {
				continue
			}
			if t.named && !p.arrived[arrival{pl.s.m.id, pl.rev, t.key()}] || !t.named && p.w.holds(rangesNeedProof) {
				return false
			}
		}
	}
	return true
}

// key is the one that a named touch has.
func (t Touch) key() int {
	for k := range t.among.each {
		return k
	}
	return -1
}

// sourceAt is the source that feeds a revision.
func (s *Stream) sourceAt(rev int) *Source {
	for _, src := range s.sources {
		if src.from > 0 && src.from <= rev && rev < src.until {
			return src
		}
	}
	return nil
}

// inOrder sorts events by stamp, operation and key.
func (p *Process) inOrder(evs []Event) []Event {
	sort.SliceStable(evs, func(i, j int) bool {
		a, b := &evs[i], &evs[j]
		switch {
		case a.T != b.T:
			return a.T < b.T
		case !p.w.holds(eventsKeepOrder):
			return false
		case a.op != b.op:
			return a.op < b.op
		}
		return a.key < b.key
	})
	return evs
}

// watchersBehind tells whether some watcher has not got all that is closed.
func (w *World) watchersBehind() bool {
	return slices.ContainsFunc(w.procs, func(p *Process) bool {
		return p.up && p.ready && slices.ContainsFunc(p.watchers, func(wt *Watcher) bool { return !wt.ended && wt.next <= p.W })
	})
}
