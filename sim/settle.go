package main

// status is what became of a request.
type status int

const (
	done       status = iota // it landed, or locked
	refused                  // by its guard
	wrongEpoch               // of its stamp
	unknown                  // no answer came
	unsent                   // it has no stamp
	locksLost                // the locks that it counted on are gone
)

// Outcome is what became of an operation on its lane.
type Outcome struct {
	st    status
	T     int64
	epoch int64
	ans   []int64
}

// closed waits until T is closed. False: the epoch changed meanwhile, and the wait was for this one.
func (t *Task) closed(T int64, thisEpoch bool) bool {
	p, e := t.p, t.p.epoch
	left := func() bool { return thisEpoch && p.epoch != e }
	for p.W < T {
		if left() {
			return false
		}
		if t.wait(true, func() bool { return p.W >= T || left() }) {
			continue
		}
		if thisEpoch {
			t.fenceAll(T, e)
		} else {
			t.fenceAll(T, p.epoch)
		}
	}
	return true
}

var (
	settledByOwnMark    = newRule("awSettle", "a doubt is settled by the stamp's mark in its own epoch, on its member; not by what is closed")
	refusalsAreNoted    = newRule("awRefused", "a mark says whether the stamp landed or was refused")
	waitsNameTheirEpoch = newRule("awRead", "who waits for a stamp fences it off in the stamp's epoch, and reads again after a change")
)

// settle finds out whether a stamp whose answer was lost has landed.
func (t *Task) settle(member int, T, epoch int64) bool {
	w, p := t.w, t.p
	if !w.holds(settledByOwnMark) {
		t.closed(T, false)
		seen := p.marks[T]
		return seen != nil && seen.landed
	}
	s := p.streams[member]
	marked := func() bool {
		seen := p.marks[T]
		return seen != nil && seen.epoch == epoch && seen.member == member
	}
	dead := func() bool { return s.epoch > epoch || s.F >= T }
	for {
		switch {
		case marked():
			return p.marks[T].landed || !w.holds(refusalsAreNoted)
		case dead():
			return false
		}
		if t.wait(true, func() bool { return marked() || dead() }) {
			continue
		}
		if w.holds(waitsNameTheirEpoch) {
			t.fenceAll(T, epoch)
		} else {
			t.fenceAll(T, p.epoch)
		}
	}
}
