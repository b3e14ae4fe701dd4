package main

// Coord is the coordinator: the clock of one epoch, or what is there of it while it is rebuilt.
type Coord struct {
	has          bool // a clock
	epoch, clock int64
	nonce, claim int64
}

var backwardsIsJudgedBefore = newRule("awBack", "a clock that went backwards is told by what was closed before the add, not after it")

// add takes k stamps: those behind T. Not ok: there was no answer, or none that was of this process's epoch.
func (t *Task) add(k int64) (T, epoch int64, ok bool) {
	w, p := t.w, t.p
	e := p.epoch
	r, got := t.ask("add", func() any {
		if w.coord.has && w.coord.epoch == e {
			w.coord.clock += k
		}
		return w.coord
	})
	if !got {
		return 0, 0, false
	}
	c := r.(Coord)
	if !c.has || c.epoch != e {
		t.addEpoch = e
		t.wrongClock(c)
		return 0, 0, false
	}
	if !w.holds(backwardsIsJudgedBefore) && k > 0 && c.clock-k < p.W && e == p.epoch {
		w.fail("false alarm: add gave %d <= W=%d (never went backwards)", c.clock-k+1, p.W)
	}
	return c.clock - k, e, true
}

// stamp takes one stamp.
func (t *Task) stamp() (T, epoch int64, ok bool) {
	T, epoch, ok = t.add(1)
	return T + 1, epoch, ok
}

// syncEpoch asks for the epoch, after a store was of another.
func (t *Task) syncEpoch() {
	w := t.w
	t.addEpoch = t.p.epoch
	if r, ok := t.ask("epoch?", func() any { return w.coord }); ok {
		t.wrongClock(r.(Coord))
	}
}

// wrongClock follows the clock into its epoch, or rebuilds one that is lost: one task of the process, the others wait.
func (t *Task) wrongClock(c Coord) {
	p := t.p
	switch {
	case c.has:
		p.epoch = max(p.epoch, c.epoch)
	case p.rebuilding:
		t.wait(true, func() bool { return !p.rebuilding })
	default:
		p.rebuilding = true
		t.rebuild()
		p.rebuilding = false
	}
}
