package main

import (
	"slices"
	"sort"
)

// check replays everything that landed in the order of stamps, on one store, and compares what everybody was told.
func (w *World) check() {
	sort.Slice(w.landed, func(i, j int) bool { return w.landed[i].T < w.landed[j].T })
	h := newHistory()
	for _, check := range []func(*history){w.checkLanded, w.checkAnswers, func(*history) { w.checkRealTime() }, w.checkReleased} {
		if w.viol == "" {
			check(h)
		}
	}
}

// history is the replay: the states behind every stamp that landed, and all events.
type history struct {
	stamps []int64
	states []State
	evs    []Event
}

func newHistory() *history { return &history{stamps: []int64{0}, states: make([]State, 1)} }

func (h *history) at(R int64) *State {
	i := sort.Search(len(h.stamps), func(i int) bool { return h.stamps[i] > R })
	return &h.states[i-1]
}

// checkLanded compares the events that landed, and the answers to their operations.
func (w *World) checkLanded(h *history) {
	var st State
	for _, o := range w.landed {
		before := st
		evs, ans := o.eval(&st, o.T)
		behind := st
		want, got := byStamp(evs), byStamp(o.evs)
		if len(want) != len(got) {
			w.fail("op %d T=%d: landed events %v, replay says %v", o.id, o.T, got, want)
			return
		}
		for i := range want {
			if !want[i].same(got[i]) {
				w.fail("op %d T=%d: landed event %+v, replay says %+v", o.id, o.T, got[i], want[i])
				return
			}
		}
		h.evs = append(h.evs, evs...)
		h.stamps, h.states = append(h.stamps, o.T), append(h.states, st)
		if !o.done {
			continue
		}
		if o.rev != o.T {
			w.fail("op %d answered rev %d, landed at %d", o.id, o.rev, o.T)
		}
		if ans = o.withReads(ans, &before, &behind, w.keys); !slices.Equal(ans, o.ans) {
			w.fail("op %d T=%d: answer %v, replay says %v", o.id, o.T, o.ans, ans)
			return
		}
	}
}

// checkAnswers compares the answers to what did not land.
func (w *World) checkAnswers(h *history) {
	for _, o := range w.ops {
		if !o.done {
			continue
		}
		switch {
		case o.read == fencedRead:
			if want := h.at(o.rev)[o.rkey].encode(); !slices.Equal(want, o.ans) {
				w.fail("fenced read op %d key %d at T=%d: got %v, replay says %v", o.id, o.rkey, o.rev, o.ans, want)
				return
			}
		case o.read != noRead:
			if want := h.at(o.rev).encode(nil, w.keys); !slices.Equal(want, o.ans) {
				w.fail("read op %d kind %d at R=%d: got %v, replay says %v", o.id, o.read, o.rev, o.ans, want)
				return
			}
		case o.landed == 0:
			st := *h.at(o.rev)
			evs, ans := o.try(st, 1)
			if ans = o.withReads(ans, &st, &st, w.keys); len(evs) > 0 || !slices.Equal(ans, o.ans) {
				w.fail("acknowledged op %d rev %d lost (or wrong no-op answer): ans %v replay %v evs %v", o.id, o.rev, o.ans, ans, evs)
				return
			}
		}
	}
}

// moment is the begin or the end of an operation.
type moment struct {
	step int
	end  bool
	o    *Op
}

// checkRealTime demands that what begins after an answer has a larger revision; reads may have the same.
func (w *World) checkRealTime() {
	var ms []moment
	for _, o := range w.ops {
		ms = append(ms, moment{o.start, false, o})
		if o.done {
			ms = append(ms, moment{o.end, true, o})
		}
	}
	sort.SliceStable(ms, func(i, j int) bool {
		if ms[i].step != ms[j].step {
			return ms[i].step < ms[j].step
		}
		return !ms[i].end && ms[j].end
	})
	var last int64
	var who int
	for _, m := range ms {
		o := m.o
		switch {
		case m.end && o.read != pastRead && o.rev > last:
			last, who = o.rev, o.id
		case m.end:
		case o.landed > 0 && len(o.evs) > 0 && o.T <= last:
			w.fail("real time: op %d T=%d started after op %d ended with rev %d", o.id, o.T, who, last)
		case o.landed > 0 && o.T <= last:
			w.fail("real time: op %d T=%d (no event) started after op %d ended with rev %d", o.id, o.T, who, last)
		case o.done && o.current() && o.landed == 0 && o.rev < last:
			w.fail("real time: read op %d rev=%d started after op %d ended with rev %d", o.id, o.rev, who, last)
		}
	}
}

// current operations may not be behind.
func (op *Op) current() bool { return op.read < serializableRead || op.read == fencedRead }

// checkReleased demands that every watcher has got the events of its keys, in the order of stamps and operations.
func (w *World) checkReleased(h *history) {
	for _, p := range w.procs {
		for _, wt := range p.watchers {
			var want []Event
			for _, e := range h.evs {
				if e.T >= wt.first && e.T < wt.next && wt.keys.has(e.key) {
					want = append(want, e)
				}
			}
			if len(wt.got) != len(want) {
				w.log("got %+v\nwant %+v", wt.got, want)
				w.fail("p%d's watcher of %b got %d events, replay has %d in [%d,%d)", p.id, wt.keys, len(wt.got), len(want), wt.first, wt.next)
				return
			}
			for i := range want {
				if !want[i].same(wt.got[i]) {
					w.fail("p%d's watcher of %b got %+v, want %+v", p.id, wt.keys, wt.got[i], want[i])
					return
				}
			}
			w.watched += len(want)
		}
	}
}

// same tells whether two events say the same. The members' own revisions do not count.
func (e Event) same(o Event) bool {
	return e.T == o.T && e.key == o.key && e.del == o.del &&
		e.kv.val == o.kv.val && e.kv.stamp == o.kv.stamp && e.kv.create == o.kv.create && e.kv.ver == o.kv.ver
}

// byStamp sorts events by stamp and key.
func byStamp(evs []Event) []Event {
	evs = slices.Clone(evs)
	sort.SliceStable(evs, func(i, j int) bool {
		if evs[i].T != evs[j].T {
			return evs[i].T < evs[j].T
		}
		return evs[i].key < evs[j].key
	})
	return evs
}
