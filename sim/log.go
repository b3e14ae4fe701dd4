package main

// Stream is a process's watch of a member.
type Stream struct {
	m        *Member
	pos      int // what was delivered; -1: not open
	epoch, F int64
	raises   []FenceReply // answers to raises that the stream has not reached
	slow     int          // it delivers nothing before this step
}

// Seen is the mark of a stamp.
type Seen struct {
	landed bool
	epoch  int64
	member int
}

// deliver brings a process the next revision of a stream.
func (p *Process) deliver(s *Stream) {
	if s.pos >= len(s.m.log) {
		return
	}
	rv := &s.m.log[s.pos]
	s.pos++
	s.epoch = rv.epoch
	if rv.fence {
		s.F = max(s.F, rv.F)
	}
	for _, mk := range rv.marks {
		p.noteMark(s, rv, mk)
	}
	if rv.part != nil {
		p.need[rv.part.T] = rv.part.n
		p.got[rv.part.T]++
	}
	for _, e := range rv.evs {
		if e.T <= p.W && e.T > p.C0 {
			p.w.fail("p%d delivered event stamp %d at or below W=%d", p.id, e.T, p.W)
		}
		p.evs[e.T] = append(p.evs[e.T], e)
	}
	s.reachRaises()
	p.advance()
}

func (p *Process) noteMark(s *Stream, rv *Revision, mk Mark) {
	seen := p.marks[mk.T]
	again := seen != nil && mk.landed && (!seen.landed || rv.part != nil && rv.part.i == 0) // the same number, in a later epoch
	if seen == nil || again {
		p.marks[mk.T] = &Seen{landed: mk.landed, epoch: rv.epoch, member: s.m.id}
	}
}

// reachRaises takes the fences whose revisions the stream has reached.
func (s *Stream) reachRaises() {
	rest := s.raises[:0]
	for _, r := range s.raises {
		if s.pos >= r.pos {
			s.F = max(s.F, r.F)
		} else {
			rest = append(rest, r)
		}
	}
	s.raises = rest
}

var (
	partsCloseTogether = newRule("xFirstPart", "a stamp with parts is closed by all of them")
	closedBelowClock   = newRule("noClkInv", "not a rule, but a check: nothing above the clock is closed")
)

// advance closes what can be closed, and releases its events.
func (p *Process) advance() {
	if !p.ready {
		return
	}
	fenced := int64(1 << 62)
	for _, s := range p.streams {
		fenced = min(fenced, s.F)
	}
	for p.closes(p.W+1, fenced) {
		p.W++
		if c := &p.w.coord; c.has && p.W > c.clock && p.w.holds(neverRestored) && p.w.holds(closedBelowClock) {
			p.w.fail("p%d closed W=%d above the clock %d (epoch %d)", p.id, p.W, c.clock, c.epoch)
		}
		p.released = append(p.released, p.evs[p.W]...)
	}
}

// closes tells whether a stamp is closed: all of it was seen, or every member is fenced above it.
func (p *Process) closes(T, fenced int64) bool {
	if parts := p.need[T]; parts > 0 && p.w.holds(partsCloseTogether) {
		return p.got[T] >= parts
	}
	return p.marks[T] != nil || T <= fenced
}

// snapshot is the state at a closed revision: a base and a tail by member, from what was delivered to this process.
func (p *Process) snapshot(R int64) (st State) {
	if R > p.W {
		p.w.fail("snapshot above W")
	}
	for _, s := range p.streams {
		log := s.m.log[:s.pos]
		base := baseOf(log, R)
		for i := range log {
			for _, e := range log[i].evs {
				if i < base || e.T <= R {
					st.apply(e)
				}
			}
		}
	}
	return st
}

// baseOf counts the revisions before the first that has a stamp above R.
func baseOf(log []Revision, R int64) int {
	for i := range log {
		for _, mk := range log[i].marks {
			if mk.T > R {
				return i
			}
		}
	}
	return len(log)
}

// cached is what this process has seen of one member, unordered: what a writer pins.
func (p *Process) cached(member int) (st State) {
	s := p.streams[member]
	for i := range s.m.log[:s.pos] {
		for _, e := range s.m.log[i].evs {
			st.apply(e)
		}
	}
	return st
}
