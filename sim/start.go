package main

import "slices"

var startsFinishDecisions = newRule("awStartDec", "a process that starts finishes the decisions at or below where it begins")

// start opens the streams, and begins the log at a reading of the clock which is fenced on every member.
func (t *Task) start() {
	w, p := t.w, t.p
	for _, m := range w.members {
		for {
			if r, ok := t.ask("open", func() any { return len(m.log) }); ok {
				p.open(p.streams[m.id], r.(int))
				break
			}
		}
	}
	for {
		C, epoch, ok := t.add(0)
		if !ok || !t.fenceStart(C, epoch) {
			continue
		}
		t.waitForFences(C, epoch)
		if w.holds(startsFinishDecisions) && !t.finishDecisions(C) {
			continue
		}
		p.C0, p.W, p.ready = C, C, true
		p.advance()
		w.log("p%d ready C=%d", p.id, C)
		return
	}
}

// fenceStart raises the fences to where the log begins.
func (t *Task) fenceStart(C, epoch int64) bool {
	w, good := t.w, true
	for _, m := range w.members {
		r, ok := t.ask("startfence", func() any { return w.raiseFence(m, epoch, C) })
		good = good && ok && r.(FenceReply).epoch == epoch
		if good {
			t.p.noteRaise(m.id, r.(FenceReply))
		}
	}
	return good
}

// waitForFences waits until every stream has shown a fence at or above C.
func (t *Task) waitForFences(C, epoch int64) {
	shown := func() bool {
		return !slices.ContainsFunc(t.p.streams, func(s *Stream) bool { return s.F < C })
	}
	for !t.wait(true, shown) {
		if t.w.holds(raisesAreNoted) {
			t.fenceAll(C, epoch)
		}
	}
}

// finishDecisions lands all parts of what was decided at or below C: their marks may lie before the streams' begin.
func (t *Task) finishDecisions(C int64) bool {
	w, p := t.w, t.p
	for _, m := range w.members {
		r, ok := t.ask("decs", func() any { return m.decidedBelow(C) })
		if !ok {
			return false
		}
		for _, d := range r.([]*Decision) {
			if !t.rollForward(d, m.id) {
				return false
			}
		}
	}
	for _, m := range w.members {
		r, ok := t.ask("pos", func() any { return len(m.log) })
		if !ok {
			return false
		}
		t.wait(false, func() bool { return p.streams[m.id].pos >= r.(int) })
	}
	return true
}

func (m *Member) decidedBelow(C int64) (ds []*Decision) {
	for _, d := range m.decisions {
		if d.T <= C {
			ds = append(ds, d)
		}
	}
	slices.SortFunc(ds, func(a, b *Decision) int { return int(a.T - b.T) }) // map order must not leak
	return ds
}
