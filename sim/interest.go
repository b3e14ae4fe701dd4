package main

import "slices"

// Source is a native watcher of user keys: it feeds the log with the revisions in [from, until) of its member.
type Source struct {
	nat         *Native
	created     bool
	header      int  // Created's
	dead        bool // compaction has passed it
	from, until int  // from 0: not yet
	complete    int  // all up to it has come
	waiting     []Response
}

const never = int(1) << 40

var (
	eventsProveTheirOwn  = newRule("mHeader", "an event proves that all up to its own revision has come, not up to that of its response's header (A4)")
	progressIsOfCreated  = newRule("mProgress", "progress says nothing of a watcher that was not created before it (A4)")
	manifestsComeFirst   = newRule("mEarly", "no event is interpreted before the manifest of its revision (A4)")
	interestsBeginNow    = newRule("mFuture", "interests start at revision 0: one with a future start silences the progress of its stream (A6)")
	cutsAreAboveOld      = newRule("mCut", "sources change above Created's header and above all that the old one has brought (A18)")
	oldSourcesDrain      = newRule("mDrain", "an old source ends when it is complete up to the cut (A18)")
	coveredAboveTop      = newRule("mCover", "a range is covered from above the highest stamp that its members had below the cut (A18)")
	narrowedWhenDecided  = newRule("mNarrow", "what is narrowed away is not covered from the decision on, not from the cut on")
	progressIsAskedAgain = newRule("mAsk", "progress that was not answered is asked for again (A6)")
)

// take takes what a source's watcher brings.
func (src *Source) take(p *Process, r Response) {
	w := p.w
	switch {
	case r.compacted > 0:
	case r.created:
		src.created, src.header = true, r.header
		if !w.holds(createdProvesNothing) && src.nat.start > 0 {
			src.complete = max(src.complete, r.header)
		}
	case r.of == nil:
		if src.created || !w.holds(progressIsOfCreated) {
			src.complete = max(src.complete, r.header)
		}
	default:
		src.waiting = append(src.waiting, r)
		src.complete = max(src.complete, r.rev)
		if !w.holds(eventsProveTheirOwn) {
			src.complete = max(src.complete, r.header)
		}
	}
}

// interpret gives the events that came to the stamps of their manifests.
func (p *Process) interpret(s *Stream) {
	for _, src := range s.sources {
		rest := src.waiting[:0]
		for _, r := range src.waiting {
			if src.from == 0 || r.rev > s.pos && p.w.holds(manifestsComeFirst) {
				rest = append(rest, r)
				continue
			}
			if r.rev < src.from || r.rev >= src.until {
				continue
			}
			for _, e := range r.evs {
				e = p.stamped(s, r.rev, e)
				p.evs[e.T] = append(p.evs[e.T], e)
				p.arrived[arrival{s.m.id, r.rev, e.key}] = true
			}
		}
		src.waiting = rest
	}
	p.letGo()
}

// arrival is an event as a member's stream shows it.
type arrival struct{ member, rev, key int }

// stamped gives an event its stamp and its place in the transaction: the operation's that names its key.
func (p *Process) stamped(s *Stream, rev int, e Event) Event {
	e.at, e.op, e.ranged, e.span = rev, 0, false, 0
	if rev > s.pos {
		if e.del {
			e.T = s.top
		}
		return e
	}
	for _, mf := range s.m.log[rev-1].manifests {
		for _, en := range mf.entries {
			for _, t := range en.touches {
				if t.among.has(e.key) {
					e.T, e.op = en.T, t.op
					return e
				}
			}
		}
	}
	p.w.fail("p%d: no manifest of revision %d of M%d names key %d", p.id, rev, s.m.id, e.key)
	return e
}

// wanted are the keys of a member that watchers of this process want.
func (p *Process) wanted(member int) (want Keys) {
	for _, wt := range p.watchers {
		if !wt.ended {
			want |= p.w.on(member, wt.keys)
		}
	}
	if p.hull && want != 0 {
		want = p.w.on(member, p.w.allKeys())
	}
	return want
}

// follow keeps the source of a member what its watchers want.
func (t *Task) follow(s *Stream) {
	p := t.p
	for {
		t.wait(false, func() bool { return p.ready && (s.redo || p.wanted(s.m.id) != s.following) })
		t.changeSource(s, p.wanted(s.m.id))
	}
}

// changeSource cuts a member's revisions: below the cut everything comes from the old source, from it on from the new one.
func (t *Task) changeSource(s *Stream, want Keys) {
	w, p := t.w, t.p
	s.following, s.redo = want, false
	if w.holds(narrowedWhenDecided) {
		p.uncover(s, want)
	}
	old := s.newest()
	if want == 0 {
		p.uncover(s, want)
		if old != nil {
			p.endSource(s, old, old.complete+1)
		}
		return
	}
	src := p.newSource(s, want)
	t.wait(false, func() bool { return src.created || src.dead })
	if src.dead {
		s.sources = slices.DeleteFunc(s.sources, func(o *Source) bool { return o == src })
		return
	}
	src.from = max(src.header+1, src.nat.start)
	if old != nil && w.holds(cutsAreAboveOld) {
		src.from = max(src.from, old.complete+1)
	}
	src.complete = max(src.complete, src.from-1)
	if old != nil && !old.dead {
		old.until = src.from
	}
	p.interpret(s)
	p.uncover(s, want)
	t.drain(s, old)
	t.cover(s, src)
	p.pump()
}

// newest is the source that goes on, or nil.
func (s *Stream) newest() *Source {
	if n := len(s.sources); n > 0 && s.sources[n-1].until == never && !s.sources[n-1].dead {
		return s.sources[n-1]
	}
	return nil
}

// newSource asks for a source of keys of a member.
func (p *Process) newSource(s *Stream, keys Keys) *Source {
	src := &Source{until: never}
	src.nat = &Native{keys: keys, take: func(r Response) {
		if r.compacted > 0 {
			p.compactedAt(s, src, r.compacted)
		} else {
			src.take(p, r)
		}
		p.interpret(s)
		p.pump()
	}}
	if !p.w.holds(interestsBeginNow) {
		src.nat.start = s.pos + 10
	}
	s.sources = append(s.sources, src)
	s.conn.watch(src.nat)
	return src
}

// drain ends a source when it is complete up to where the next begins.
func (t *Task) drain(s *Stream, old *Source) {
	if old == nil {
		return
	}
	if t.w.holds(oldSourcesDrain) {
		t.wait(false, func() bool { return old.dead || old.complete >= old.until-1 })
	}
	if !old.dead {
		old.complete = max(old.complete, old.until-1)
		t.p.endSource(s, old, old.until)
	}
}

func (p *Process) endSource(s *Stream, src *Source, until int) {
	src.until = until
	s.conn.cancel(src.nat)
}

// uncover gives up what is not wanted any more.
func (p *Process) uncover(s *Stream, want Keys) {
	for k := range (p.w.on(s.m.id, p.w.allKeys()) &^ want).each {
		p.covered[k] = 0
	}
}

// cover notes from which stamp on the log has the events of a source's keys.
func (t *Task) cover(s *Stream, src *Source) {
	p := t.p
	t.wait(false, func() bool { return s.pos >= src.from-1 })
	if src.dead {
		return
	}
	from := s.top + 1
	if !t.w.holds(coveredAboveTop) {
		from = p.W + 1
	}
	for k := range src.nat.keys.each {
		if p.covered[k] == 0 {
			p.covered[k] = max(from, p.C0+1)
		}
	}
}

// waitsFor tells whether something waits for a member's sources: a watcher, or a change of them.
func (p *Process) waitsFor(s *Stream) bool {
	return slices.ContainsFunc(s.sources, func(src *Source) bool {
		return src.until != never && !src.dead && src.complete < src.until-1
	}) || slices.ContainsFunc(p.watchers, func(wt *Watcher) bool {
		return wt.joined && !wt.ended && wt.next <= p.W && p.w.on(s.m.id, wt.keys) != 0
	})
}

// prober asks for progress, while something waits for it and now and then.
func (t *Task) prober() {
	w, p := t.w, t.p
	for {
		t.idle()
		for _, s := range p.streams {
			if s.pos >= 0 && (p.waitsFor(s) || w.coin(0.05) || w.fair) && (!s.asked || w.holds(progressIsAskedAgain)) {
				s.conn.asked, s.asked = true, true
			}
		}
	}
}
