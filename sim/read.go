package main

import "slices"

var (
	readsWaitForClock = newRule("hdrC", "a linearizable read waits until the clock that it read is closed")
	cleanIsAboveClock = newRule("mClean", "a linearizable read prefers clean revisions only at or above its reading of the clock (A9)")
)

// cleanest is the highest revision in [C, W] of which no member has a tail, or else W.
func (t *Task) cleanest(C int64) int64 {
	p := t.p
	if !t.w.holds(cleanIsAboveClock) {
		C = max(C-10, p.C0)
	}
	for R := p.W; R >= C; R-- {
		if !slices.ContainsFunc(p.streams, func(s *Stream) bool { return !s.clean(R) }) {
			return R
		}
	}
	return p.W
}

// linearizableRevision is a closed revision at or above every stamp that was answered before.
func (t *Task) linearizableRevision() int64 {
	for {
		C, _, ok := t.add(0)
		if !ok {
			continue
		}
		if !t.w.holds(readsWaitForClock) {
			return C
		}
		if t.closed(C, t.w.holds(waitsNameTheirEpoch)) {
			return t.cleanest(C)
		}
	}
}

func (t *Task) readOp(op *Op) {
	w, p := t.w, t.p
	switch op.read {
	case linearizableRead:
		R := t.linearizableRevision()
		t.finishRead(op, R, min(R, p.W))
	case serializableRead:
		R := p.W
		t.finishRead(op, R, R)
	case pastRead:
		R := p.W - w.rng.Int63n(min(p.W, 20))
		t.finishRead(op, R, R)
	case fencedRead:
		t.readFenced(op)
	}
}

// finishRead answers a read with the state at a closed revision. One that is compacted is an error.
func (t *Task) finishRead(op *Op, rev, R int64) {
	if st, ok := t.snapshot(R); ok {
		t.finish(op, rev, st.encode(nil, t.w.keys))
	}
}

// readFenced reads a key on its member, at a stamp which it leaves on the slot: nothing lands below it later.
func (t *Task) readFenced(op *Op) {
	w := t.w
	member, slots := w.memberOf(op.rkey), []int{w.slotOf(op.rkey)}
	for {
		out := t.submit(member, &Queued{op: op, slots: slots, build: func(T int64) *Guarded {
			return &Guarded{op: op, T: T, slots: slots, mark: slots}
		}})
		if out.st == done {
			t.finish(op, out.T, out.ans)
			return
		}
		if w.cross > 0 && out.st == refused {
			t.helpLocks(member, slots)
		}
	}
}

// unstamped answers an operation from a snapshot, if it changes nothing there.
func (t *Task) unstamped(op *Op) bool {
	R := t.linearizableRevision()
	st, ok := t.snapshot(min(R, t.p.W))
	if !ok {
		return true // an error
	}
	evs, ans := op.try(st, 1)
	if len(evs) > 0 {
		return false
	}
	t.finish(op, R, op.withReads(ans, &st, &st, t.w.keys))
	return true
}
