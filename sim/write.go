package main

var (
	deletesMark    = newRule("noDelMark", "a delete sets its slot's clock")
	comparesMark   = newRule("noCmpMark", "a compare that fails sets its slot's clock")
	pinsBelowStamp = newRule("awPin", "a stamp is above those of the states that are pinned")
)

// write is a write of one member on its way.
type write struct {
	t       *Task
	op      *Op
	keys    []int
	slots   []int
	member  int
	st      State // what is pinned
	fresh   bool  // read the member before the next attempt
	rebuild bool  // pin what is known when the stamp is there
}

// writeOp lands an operation on one member.
func (t *Task) writeOp(op *Op) {
	ks := op.keys()
	x := &write{t: t, op: op, keys: ks, slots: t.w.slotsOf(ks), member: t.w.memberOf(ks[0])}
	x.fresh = t.w.coin(0.4)
	x.rebuild = t.w.coin(0.3)
	for !x.attempt() {
	}
}

// attempt is one try. True: the operation was answered.
func (x *write) attempt() bool {
	t, op := x.t, x.op
	if !x.learn() {
		return false
	}
	if !op.blind() {
		if evs, _ := op.try(x.st, 1); len(evs) == 0 {
			x.fresh = !t.unstamped(op)
			return !x.fresh
		}
	}
	out := t.submit(x.member, &Queued{op: op, slots: x.slots, build: x.guard})
	switch out.st {
	case refused:
		x.fresh, x.rebuild = true, false
		x.help()
		return false
	case wrongEpoch, unsent:
		return false
	case unknown:
		if !t.settle(x.member, out.T, out.epoch) {
			x.fresh = true
			return false
		}
	}
	t.answer(op, out)
	return true
}

// learn gets the states of the member's keys.
func (x *write) learn() bool {
	p, m := x.t.p, x.t.w.members[x.member]
	if !x.fresh {
		var ok bool
		if x.st, ok = p.states(x.op); ok {
			return true
		}
	}
	r, ok := x.t.ask("read", func() any { return memberState{m.keys, len(m.log)} })
	if ok {
		x.st = r.(memberState).keys
		p.learnRead(x.member, x.st, r.(memberState).at)
	}
	return ok
}

// memberState are a member's keys as of a revision.
type memberState struct {
	keys State
	at   int
}

// help sees to locks that may have been in the way.
func (x *write) help() {
	switch {
	case x.t.w.cross == 0:
	case x.op.excl:
		x.t.helpLocks(x.member, nil)
	default:
		x.t.helpLocks(x.member, x.slots)
	}
}

// guard makes the guard for a stamp. Nil: what was read is newer than the stamp.
func (x *write) guard(T int64) *Guarded {
	w, op := x.t.w, x.op
	o := &Guarded{op: op, T: T, slots: x.slots, excl: op.excl}
	if op.excl {
		return o
	}
	if x.rebuild {
		if st, ok := x.t.p.states(op); ok {
			x.st = st
		}
	}
	ok := op.succeeds(&x.st)
	o.evs, _ = op.try(x.st, T)
	written, touched := map[int]bool{}, map[int]bool{}
	for _, a := range op.branch(ok) {
		if a.put {
			written[a.key], touched[a.key] = true, true
			continue
		}
		for _, k := range a.keys {
			touched[k] = true
			if w.holds(deletesMark) {
				o.mark = append(o.mark, w.slotOf(k))
			}
		}
	}
	for _, c := range op.cmps {
		touched[c.key] = true
		if !written[c.key] && (ok || w.holds(comparesMark)) {
			o.mark = append(o.mark, w.slotOf(c.key))
		}
	}
	for _, k := range x.keys {
		if !touched[k] {
			continue
		}
		if x.st[k].stamp >= T && w.holds(pinsBelowStamp) {
			return nil
		}
		pin := x.pin(k)
		if o.pins = append(o.pins, pin); !pin.create || x.st[k].ver == 0 {
			o.exact |= keysOf(k)
		}
	}
	return o
}

// pin counts on the state of a key: a blind put on the life of the key, others on its last change.
func (x *write) pin(key int) Pin {
	switch kv := &x.st[key]; {
	case kv.ver == 0:
		return Pin{key, 0, true}
	case x.op.blind():
		return Pin{key, kv.ncreate, true}
	default:
		return Pin{key, kv.nmod, false}
	}
}

// answer answers an operation that landed. What it reads is read when its stamp is closed.
func (t *Task) answer(op *Op, out Outcome) {
	ans := out.ans
	if out.st == unknown {
		t.closed(out.T, false)
		st, ok := t.snapshot(out.T - 1)
		if !ok {
			return // an error
		}
		_, ans = op.try(st, out.T)
	}
	if op.pre || op.post {
		t.closed(out.T, false)
		before, ok := t.snapshot(out.T - 1)
		behind, still := t.snapshot(out.T)
		if !ok || !still {
			return // an error
		}
		ans = op.withReads(ans, &before, &behind, t.w.keys)
	}
	t.finish(op, out.T, ans)
}
