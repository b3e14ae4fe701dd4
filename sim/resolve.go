package main

var (
	looksAtCurrentLocks = newRule("xStaleView", "a resolver looks at the locks where its stream has come as far as the member was when it began")
	locksBeforeDecision = newRule("xDecFirst", "a resolver reads the decision after the locks, not before")
	resolverLooks       = newRule("xNoDecLook", "a resolver looks for the decision")
	primaryIsTakenFirst = newRule("xHelpOrder", "a resolver takes the primary's locks before the others'")
	abortsAreFresh      = newRule("xStale", "an abort has a fresh stamp")
	decisionGoesLast    = newRule("xDelEarly", "a decision is removed after all parts have landed")
)

// view is what a transaction has on a member, as a resolver sees it.
type view struct {
	dec   *Decision
	whole bool
	slots []int
	epoch int64
	pos   int
}

func (v view) free() bool { return !v.whole && len(v.slots) == 0 }

// look reads what a transaction has on a member: the locks from this process's stream, once that is where the member is now,
// and then the decision from the member.
func (t *Task) look(m *Member, id int64) (v view, ok bool) {
	s := t.p.streams[m.id]
	read := func() bool {
		r, ok := t.ask("held", func() any { return view{dec: m.decisions[id], epoch: m.epoch, pos: len(m.log)} })
		if ok {
			v = r.(view)
		}
		return ok
	}
	if !read() {
		return v, false
	}
	if t.w.holds(looksAtCurrentLocks) {
		t.wait(false, func() bool { return s.pos >= v.pos })
	}
	whole, slots := s.shown(id)
	ok = !t.w.holds(locksBeforeDecision) || read()
	v.whole, v.slots = whole, slots
	return v, ok
}

// shown are the locks of a transaction where the stream stands.
func (s *Stream) shown(id int64) (whole bool, slots []int) {
	if s.pos <= 0 {
		return false, nil
	}
	rv := &s.m.log[s.pos-1]
	for slot, l := range rv.lockBy {
		if l == id {
			slots = append(slots, slot)
		}
	}
	return rv.wholeBy == id, slots
}

// takeLocks takes some of what a transaction has on a member. True: nothing is left there.
func (t *Task) takeLocks(m *Member, id int64, v view) bool {
	w, p := t.w, t.p
	if v.whole {
		r, ok := t.ask("abortwhole", func() any { return w.abort(m, id, true, nil, v.epoch, 0, 0) })
		return ok && r.(LockReply).st == done
	}
	all := true
	if len(v.slots) > 1 && w.coin(0.3) { // more slots than one request takes
		v.slots, all = v.slots[:1], false
	}
	T, epoch := p.W, v.epoch
	if w.holds(abortsAreFresh) {
		var ok bool
		if T, epoch, ok = t.stamp(); !ok {
			return false
		}
	}
	W := p.carries()
	r, ok := t.ask("abort", func() any { return w.abort(m, id, false, v.slots, epoch, T, W) })
	if ok && r.(LockReply).st != done {
		t.syncEpoch()
	}
	return all && ok && r.(LockReply).st == done
}

// resolve finishes a transaction of somebody who may have gone: it lands what was decided, and gives up what was not.
func (t *Task) resolve(id int64, prim int) {
	w := t.w
	pm := w.members[prim]
	if !w.holds(primaryIsTakenFirst) && pm.decisions[id] == nil {
		t.takeOthers(id, pm)
	}
	for {
		v, ok := t.look(pm, id)
		if !ok {
			return
		}
		if v.dec != nil && w.holds(resolverLooks) {
			t.rollForward(v.dec, prim)
			return
		}
		if v.free() || t.takeLocks(pm, id, v) {
			break
		}
	}
	t.takeOthers(id, pm)
}

// takeOthers takes the locks on all members but the primary.
func (t *Task) takeOthers(id int64, pm *Member) {
	for _, m := range t.w.members {
		for m != pm {
			if whole, slots := t.p.streams[m.id].shown(id); !whole && slots == nil {
				break // what the stream has not shown yet is seen later
			}
			v, ok := t.look(m, id)
			if !ok {
				return
			}
			if v.free() || t.takeLocks(m, id, v) {
				break
			}
		}
	}
}

var sweepsWrite = newRule("mSweep", "who removes a decision, which is not followed, writes a record that is (A15)")

// sweep removes a decision.
func (w *World) sweep(m *Member, id, W int64) any {
	if m.decisions[id] != nil {
		delete(m.decisions, id)
		rv := m.revision()
		if w.holds(sweepsWrite) {
			w.note(m, &rv, Manifest{W: W}, false)
		}
		m.commit(rv)
	}
	return LockReply{}
}

// rollForward lands the parts of a decision, and then removes it. False: some may not have landed.
func (t *Task) rollForward(d *Decision, prim int) bool {
	w := t.w
	ok := true
	for _, i := range w.rng.Perm(len(d.shares) - 1) {
		_, landed := t.ask("apply", func() any { return w.apply(w.members[d.shares[i+1].member], d, i+1) })
		ok = ok && landed
	}
	if ok || !w.holds(decisionGoesLast) {
		if w.coin(0.5) { // later
			t.idle()
		}
		W := t.p.carries()
		t.ask("deldec", func() any { return w.sweep(w.members[prim], d.id, W) })
	}
	return ok
}

// helpLocks is some process's resolver, at once: it finishes what is in the way. Without slots, that is any lock of the member.
func (t *Task) helpLocks(member int, slots []int) {
	w := t.w
	m := w.members[member]
	r, ok := t.ask("locks", func() any {
		if slots == nil || m.whole != 0 {
			return m.locks()
		}
		ls := []Lock{}
		for _, s := range slots {
			if m.lock[s] != 0 {
				ls = append(ls, Lock{m.lock[s], m.lockPrim[s]})
			}
		}
		return ls
	})
	if !ok {
		return
	}
	if ls := r.([]Lock); len(ls) > 0 && w.coin(0.15) {
		t.resolveOne(ls)
	}
}

func (t *Task) resolveOne(ls []Lock) {
	l := ls[t.w.rng.Intn(len(ls))]
	t.resolve(l.id, l.prim)
}

// resolver finishes what the process's own streams show, which may be long over.
func (t *Task) resolver() {
	w, p := t.w, t.p
	t.wait(false, func() bool { return p.ready })
	for {
		t.idle()
		s := p.streams[w.rng.Intn(len(w.members))]
		if s.pos == 0 || len(s.m.log) == 0 {
			continue
		}
		if ls := s.m.log[s.pos-1].locks; len(ls) > 0 && !w.coin(0.4) {
			t.resolveOne(ls)
		}
	}
}
