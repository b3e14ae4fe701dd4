package main

import "slices"

// place is a revision of a member.
type place struct {
	s   *Stream
	rev int
}

var (
	goneIsMissed     = newRule("mGone", "a watcher waits for what was let go, until it has been read again (A10)")
	goneIsUncovered  = newRule("mGoneCover", "what was let go and then compacted is not covered any more: a watcher that is joining must not count on it (A10)")
	replayedOnlyGone = newRule("mGoneTwice", "of a revision that is read again only what was let go counts (A10)")
)

// letGo bounds the events that wait above W: beyond it the oldest revisions lose them. What their manifests say stays.
func (p *Process) letGo() {
	if p.bound == 0 {
		return
	}
	var n, top int64
	for _, s := range p.streams {
		top = max(top, s.top)
	}
	for T := p.W + 1; T <= top; T++ {
		n += int64(len(p.evs[T]))
	}
	for n > p.bound {
		pl, ok := p.oldestWaiting()
		if !ok {
			return
		}
		before := n
		for _, T := range pl.s.stampsAt(pl.rev) {
			if T <= p.W {
				continue
			}
			left := slices.DeleteFunc(p.evs[T], func(e Event) bool { return e.at == pl.rev && p.w.memberOf(e.key) == pl.s.m.id })
			n -= int64(len(p.evs[T]) - len(left))
			p.evs[T] = left
			p.gone[pl] = append(p.gone[pl], T)
		}
		if n == before {
			return
		}
	}
}

// oldestWaiting is the lowest revision with events above W.
func (p *Process) oldestWaiting() (pl place, ok bool) {
	for _, s := range p.streams {
		for T := p.W + 1; T <= s.top; T++ {
			for _, e := range p.evs[T] {
				if p.w.memberOf(e.key) == s.m.id && (!ok || e.at < pl.rev) {
					pl, ok = place{s, e.at}, true
				}
			}
		}
	}
	return pl, ok
}

// stampsAt are the stamps that a revision of a member has.
func (s *Stream) stampsAt(rev int) (stamps []int64) {
	for _, mf := range s.m.log[rev-1].manifests {
		for _, e := range mf.entries {
			stamps = append(stamps, e.T)
		}
	}
	return stamps
}

// refill reads again what was let go, when W has come to it.
func (t *Task) refill() {
	p := t.p
	for {
		var due place
		t.wait(false, func() bool {
			var ok bool
			due, ok = p.dueAgain()
			return ok
		})
		if !t.w.fair && t.w.coin(0.3) {
			t.idle() // history may take long
		}
		t.readAgain(due)
	}
}

// dueAgain is the first revision that was let go and has a stamp that is closed.
func (p *Process) dueAgain() (due place, ok bool) {
	for pl, stamps := range p.gone {
		if slices.ContainsFunc(stamps, func(T int64) bool { return T <= p.W }) &&
			(!ok || pl.rev < due.rev || pl.rev == due.rev && pl.s.m.id < due.s.m.id) {
			due, ok = pl, true
		}
	}
	return due, ok
}

func (t *Task) readAgain(pl place) {
	w, p := t.w, t.p
	keys := w.allKeys()
	if src := pl.s.sourceAt(pl.rev); src != nil {
		keys = src.nat.keys
	}
	evs, ok := t.readPast(pl.s, keys, pl.rev-1, pl.rev)
	stamps := p.gone[pl]
	delete(p.gone, pl)
	if !ok {
		p.loseRevision(pl, slices.Max(stamps))
	}
	for _, e := range evs {
		if slices.Contains(stamps, e.T) || !w.holds(replayedOnlyGone) {
			p.evs[e.T] = append(p.evs[e.T], e)
		}
	}
	p.pump()
	p.letGo()
}

// loseRevision gives up a revision that was let go and then compacted: its keys are covered from above its highest stamp.
func (p *Process) loseRevision(pl place, top int64) {
	for _, wt := range p.watchers {
		if wt.joined && !wt.ended && wt.next <= top && pl.s.touches(pl.rev, wt.keys) {
			p.lose(wt)
		}
	}
	for k := range p.w.on(pl.s.m.id, p.w.allKeys()).each {
		if p.covered[k] > 0 && pl.s.touches(pl.rev, keysOf(k)) && p.w.holds(goneIsUncovered) {
			p.covered[k] = max(p.covered[k], top+1)
		}
	}
}

// isGone tells whether the events of a stamp in a revision were let go.
func (p *Process) isGone(pl place, T int64) bool {
	return slices.Contains(p.gone[pl], T) && p.w.holds(goneIsMissed)
}
