package main

import "slices"

var (
	primaryFirst      = newRule("xOthers", "the primary is locked before the others")
	idsAreUnique      = newRule("awId", "a transaction's id is unique; a stamp is not, over the epochs")
	locksAreAskedOnce = newRule("awLatePrep", "a lock request is sent once")
	settledByPrimary  = newRule("awDecRec", "a lost decide is settled by its mark, not by its record")
)

// step is what comes after a step of a transaction.
type step int

const (
	goOn      step = iota
	startOver      // with another id
	helpFirst      // start over, when who was in the way was helped
)

// attempt is one try at a transaction across members.
type attempt struct {
	id     int64
	epoch  int64
	prim   int
	shares []Share
	locked []bool
	clocks [][]int64 // of the slots that are locked
	st     State     // of the members that are locked
}

// shares are what an operation takes of the members. A range takes all of one.
func (w *World) shares(op *Op) (shs []Share) {
	ks := op.keys()
	for mi := range w.members {
		on := func(k int) bool { return w.memberOf(k) == mi }
		if !slices.ContainsFunc(ks, on) {
			continue
		}
		sh := Share{member: mi}
		sh.whole = slices.ContainsFunc(op.actions(), func(a Action) bool { return len(a.keys) > 1 && slices.ContainsFunc(a.keys, on) })
		if !sh.whole {
			sh.slots = w.slotsOf(slices.DeleteFunc(slices.Clone(ks), func(k int) bool { return !on(k) }))
		}
		shs = append(shs, sh)
	}
	return shs
}

// crossOp lands an operation of several members.
func (t *Task) crossOp(op *Op) {
	shs := t.w.shares(op)
	if len(shs) == 1 && t.w.coin(0.5) && !shs[0].whole {
		op.cross = false
		t.writeOp(op)
		return
	}
	for !t.attemptCross(op, shs) {
	}
}

// attemptCross locks, evaluates and decides. True: the operation was answered.
func (t *Task) attemptCross(op *Op, shs []Share) bool {
	a, ok := t.newAttempt(shs)
	if !ok {
		return false
	}
	for _, i := range t.lockOrder(shs) {
		if next := t.lockShare(a, i); next != goOn {
			t.giveBack(a)
			if next == helpFirst {
				t.helpLocks(shs[i].member, shs[i].slots)
			}
			return false
		}
	}
	if evs, _ := op.try(a.st, 1); len(evs) == 0 {
		t.giveBack(a)
		return t.unstamped(op)
	}
	for {
		next, answered := t.tryDecide(op, a)
		if answered {
			return true
		}
		if next == startOver {
			t.giveBack(a)
			return false
		}
	}
}

func (t *Task) newAttempt(shs []Share) (*attempt, bool) {
	w := t.w
	w.ids++
	a := &attempt{
		id: w.ids, epoch: t.p.epoch, prim: shs[0].member, shares: shs,
		locked: make([]bool, len(shs)), clocks: make([][]int64, len(shs)),
	}
	if !w.holds(idsAreUnique) {
		T, _, ok := t.stamp()
		if !ok {
			return nil, false
		}
		a.id = T
	}
	return a, true
}

// lockOrder begins with the primary. Who takes whole members takes all in order, so that nobody waits in a circle.
func (t *Task) lockOrder(shs []Share) []int {
	order := []int{0}
	for _, i := range t.w.rng.Perm(len(shs) - 1) {
		order = append(order, i+1)
	}
	if slices.ContainsFunc(shs, func(s Share) bool { return s.whole }) {
		slices.Sort(order)
	}
	if !t.w.holds(primaryFirst) {
		order = append(order[1:], 0)
	}
	return order
}

// lockShare locks one share.
func (t *Task) lockShare(a *attempt, i int) step {
	w, sh := t.w, a.shares[i]
	m := w.members[sh.member]
	prepare := func() any { return w.prepare(m, a.epoch, a.id, a.prim, sh) }
	r, ok := t.ask("prepare", prepare)
	if !ok && !w.holds(locksAreAskedOnce) {
		r, ok = t.ask("prepare", prepare)
	}
	if !ok {
		return startOver
	}
	rep := r.(LockReply)
	if rep.st == refused && sh.whole && rep.slotsL {
		if rep, ok = t.claimMember(a, m); !ok {
			return startOver
		}
	}
	switch rep.st {
	case wrongEpoch:
		t.syncEpoch()
		return startOver
	case locksLost:
		return startOver
	case refused:
		return helpFirst
	}
	a.locked[i], a.clocks[i] = true, rep.clocks
	for k := range w.keys {
		if w.memberOf(k) == sh.member {
			a.st[k] = rep.keys[k]
		}
	}
	return goOn
}

// claimMember locks a member of which slots are locked, waits until they are free, and reads it.
func (t *Task) claimMember(a *attempt, m *Member) (LockReply, bool) {
	w := t.w
	r, ok := t.ask("claim", func() any { return w.claim(m, a.epoch, a.id, a.prim) })
	if !ok {
		return LockReply{}, false
	}
	rep := r.(LockReply)
	if rep.st != done {
		return rep, true
	}
	for {
		if !t.wait(true, func() bool { return !m.slotsLocked() || !w.holds(claimsWaitForSlots) }) {
			t.helpLocks(m.id, nil)
		}
		r, ok = t.ask("claimread", func() any { return w.readClaimed(m, a.epoch, a.id) })
		if !ok {
			return LockReply{}, false
		}
		if rep := r.(LockReply); rep.st != refused {
			return rep, true
		}
	}
}

// giveBack unlocks what an attempt has locked.
func (t *Task) giveBack(a *attempt) {
	w := t.w
	for _, i := range w.rng.Perm(len(a.shares)) {
		if a.locked[i] {
			t.ask("unlock", func() any { return w.unlock(w.members[a.shares[i].member], a.id, a.shares[i], a.clocks[i]) })
			a.locked[i] = false
		}
	}
}

// tryDecide takes a stamp and decides. Not answered: once more with another stamp, or all over.
func (t *Task) tryDecide(op *Op, a *attempt) (next step, answered bool) {
	w := t.w
	T, epoch, ok := t.stamp()
	if !ok {
		return goOn, false
	}
	evs, ans := op.try(a.st, T)
	d := &Decision{id: a.id, T: T, epoch: epoch, W: t.p.carries(), shares: a.shares, parts: w.split(evs, a.shares), op: op}
	r, ok := t.ask("decide", func() any { return w.decide(w.members[a.prim], epoch, d) })
	switch {
	case ok:
		switch r.(LockReply).st {
		case refused:
			return goOn, false
		case wrongEpoch:
			t.syncEpoch()
			return goOn, false
		case locksLost:
			return startOver, false
		}
	case !w.holds(settledByPrimary):
		if !t.guessDecided(a) {
			return startOver, false
		}
	case !t.settle(a.prim, T, epoch):
		return goOn, false // refused or dead; if the locks are lost, the next decide says so
	}
	if len(d.shares) > 1 {
		w.spawn(t.p, false, func(t *Task) {
			for !t.rollForward(d, a.prim) {
			}
		})
	}
	t.answer(op, Outcome{st: done, T: T, ans: ans})
	return goOn, true
}

// split cuts events into one part for each share.
func (w *World) split(evs []Event, shs []Share) [][]Event {
	parts := make([][]Event, len(shs))
	for i, sh := range shs {
		for _, e := range evs {
			if w.memberOf(e.key) == sh.member {
				parts[i] = append(parts[i], e)
			}
		}
	}
	return parts
}

// guessDecided takes the decision's record for the outcome.
func (t *Task) guessDecided(a *attempt) bool {
	w := t.w
	for {
		if r, ok := t.ask("rec", func() any { return w.members[a.prim].decisions[a.id] != nil }); ok {
			return r.(bool)
		}
	}
}
