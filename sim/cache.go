package main

// Known is what a process knows of a key: as of the member's revision at. A manifest has no values, so it may be less than all.
type Known struct {
	kv   KV
	at   int
	some bool // whether it is there, its stamp and its last revision
	life bool // also create, ncreate and ver
	val  bool // also val
}

var (
	entriesGiveAll    = newRule("mLearnRev", "the cache learns a key's whole state from an entry, or does not know the rest (A2)")
	unnamedIsForgot   = newRule("mForget", "the cache forgets what an entry may have written without naming it (A2)")
	oldEntriesPass    = newRule("mOldEntry", "an entry below the revision that a key was read at changes nothing (A2)")
	oldAnswersTeach   = newRule("mOldAnswer", "an answer teaches nothing of a key that a later revision has touched (A2)")
	ownPutsNeedOldAll = newRule("mOwn", "an own landing teaches a key's version only if its state before was known and pinned (A2)")
)

// learnEntry takes in what an entry says of its keys.
func (p *Process) learnEntry(rev int, e Entry) {
	for _, t := range e.touches {
		for k := range t.among.each {
			p.touched[k] = max(p.touched[k], rev)
			if c := &p.cache[k]; !c.some || c.at < rev || !p.w.holds(oldEntriesPass) {
				c.learn(p.w, rev, e.T, t)
			}
		}
	}
}

// learn takes in what an entry says of a key.
func (c *Known) learn(w *World, rev int, T int64, t Touch) {
	switch {
	case !t.named:
		if w.holds(unnamedIsForgot) {
			*c = Known{}
		}
	case t.del:
		*c = Known{at: rev, some: true, life: true, val: true}
	case t.created:
		*c = Known{at: rev, some: true, life: true, kv: KV{ver: 1, stamp: T, create: T, nmod: rev, ncreate: rev}}
	default:
		known := c.some && c.life && c.kv.ver > 0
		*c = Known{at: rev, some: true, life: known, val: c.val && !w.holds(entriesGiveAll), kv: c.kv}
		c.kv.stamp, c.kv.nmod = T, rev
		c.kv.ver = max(c.kv.ver, 1)
		if known && w.holds(entriesGiveAll) {
			c.kv.ver++
		}
	}
}

// learnRead takes in the keys of a member as they were read at a revision.
func (p *Process) learnRead(member int, st State, at int) {
	for k := range p.w.on(member, p.w.allKeys()).each {
		p.learnKey(k, st[k], at)
	}
}

func (p *Process) learnKey(k int, kv KV, at int) {
	if c := &p.cache[k]; at >= p.touched[k] && (!c.some || at >= c.at) || !p.w.holds(oldAnswersTeach) {
		*c = Known{kv: kv, at: at, some: true, life: true, val: true}
	}
}

// learnOwn takes in what an operation that landed at a revision has written, where the states before were pinned.
func (p *Process) learnOwn(o *Guarded, at int) {
	if o.excl || o.op.read != noRead {
		return
	}
	for _, e := range o.evs {
		kv := e.kv
		if !e.del {
			kv.nmod = at
			if kv.ver == 1 {
				kv.ncreate = at
			}
		}
		exact := o.exact.has(e.key)
		if exact || !p.w.holds(ownTailsAreExact) {
			p.own[arrival{p.w.memberOf(e.key), at, e.key}] = kv
		}
		if exact || !p.w.holds(ownPutsNeedOldAll) {
			p.learnKey(e.key, kv, at)
		}
	}
}

// states are what the cache has of the keys of an operation. Not ok: it is not enough to evaluate it.
func (p *Process) states(op *Op) (st State, ok bool) {
	ok = true
	for k := range keysOf(op.keys()...).each {
		c := &p.cache[k]
		st[k] = c.kv
		ok = ok && c.some
	}
	for _, c := range op.cmps {
		k := &p.cache[c.key]
		ok = ok && (c.field == modField || c.field == valueField && k.val || c.field != valueField && k.life)
	}
	for _, a := range op.actions() {
		ok = ok && (!a.put || p.cache[a.key].life)
	}
	return st, ok
}
