package main

var readsWaitForClock = newRule("hdrC", "a linearizable read waits until the clock that it read is closed")

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
			return t.p.W
		}
	}
}

func (t *Task) readOp(op *Op) {
	w, p := t.w, t.p
	switch op.read {
	case linearizableRead:
		R := t.linearizableRevision()
		t.finish(op, R, p.readAll(min(R, p.W)))
	case serializableRead:
		t.finish(op, p.W, p.readAll(p.W))
	case pastRead:
		R := p.W - w.rng.Int63n(min(p.W, 20))
		t.finish(op, R, p.readAll(R))
	case fencedRead:
		t.readFenced(op)
	}
}

func (p *Process) readAll(R int64) []int64 {
	st := p.snapshot(R)
	return st.encode(nil, p.w.keys)
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
	st := t.p.snapshot(min(R, t.p.W))
	evs, ans := op.try(st, 1)
	if len(evs) > 0 {
		return false
	}
	t.finish(op, R, op.withReads(ans, &st, &st, t.w.keys))
	return true
}
