package main

// Stream is what a process knows of a member by following its reserved range, and the watchers of user keys beside it.
type Stream struct {
	m          *Member
	conn       *Conn
	created    bool
	begin, pos int // it has shown the revisions in (begin, pos]; -1: not open
	epoch, F   int64
	top        int64        // the highest stamp that it has shown
	raises     []FenceReply // answers to raises that the stream has not reached

	asked     bool // progress was asked for
	redo      bool // the newest source was overrun
	following Keys // what the newest source is for, or is going to be
	sources   []*Source
}

// Seen is the entry of a stamp.
type Seen struct {
	landed bool
	epoch  int64
	member int
}

// Place is where a stamp landed.
type Place struct {
	s   *Stream
	rev int
	e   Entry
}

var (
	skipsAreForeign    = newRule("mSkip", "a revision that the reserved stream skips is a foreign write: the client stops")
	progressShowsSkips = newRule("mProgressSkip", "progress above the last reserved revision shows a foreign write, too (A20)")
)

// open begins to follow a member behind a revision.
func (p *Process) open(s *Stream, begin int) {
	s.begin, s.pos = begin, begin
	s.conn.watch(&Native{reserved: true, start: begin + 1, take: func(r Response) { p.takeReserved(s, r) }})
}

func (p *Process) takeReserved(s *Stream, r Response) {
	switch {
	case r.compacted > 0:
		p.halted = true // its feed ends; another is opened
	case r.created:
		s.created = true
	case r.of == nil:
		if s.created && r.header > s.pos && p.w.holds(progressShowsSkips) {
			p.meetForeign(s, r.header)
		}
	case r.rev != s.pos+1 && p.w.holds(skipsAreForeign):
		p.meetForeign(s, r.rev)
	default:
		p.show(s, r.rev)
	}
}

// meetForeign stops the client for revisions of a member that are not of metaetcd, behind its position.
func (p *Process) meetForeign(s *Stream, rev int) {
	for i := s.pos; i < rev; i++ {
		if s.m.log[i].foreign {
			p.w.log("p%d meets the foreign revision %d of M%d", p.id, i+1, s.m.id)
			p.halted = true
			return
		}
	}
	p.w.fail("p%d takes revision %d of M%d for a foreign one", p.id, s.pos+1, s.m.id)
}

// show takes in what the reserved range of a revision says.
func (p *Process) show(s *Stream, rev int) {
	rv := &s.m.log[rev-1]
	for i := s.pos; i < rev; i++ {
		if s.m.log[i].foreign {
			p.w.fail("p%d goes on behind the foreign revision %d of M%d", p.id, i+1, s.m.id)
		}
	}
	s.pos = rev
	s.epoch = rv.epoch
	if rv.fence {
		s.F = max(s.F, rv.F)
	}
	for _, mf := range rv.manifests {
		for _, e := range mf.entries {
			p.noteEntry(s, rv.epoch, rev, e)
		}
	}
	s.reachRaises()
	p.interpret(s)
	p.advance()
}

func (p *Process) noteEntry(s *Stream, epoch int64, rev int, e Entry) {
	s.top = max(s.top, e.T)
	seen := p.marks[e.T]
	again := seen != nil && e.landed && (!seen.landed || e.part != nil && e.part.i == 0) // the same number, in a later epoch
	if seen == nil || again {
		p.marks[e.T] = &Seen{landed: e.landed, epoch: epoch, member: s.m.id}
	}
	if e.part != nil {
		p.need[e.T] = e.part.n
		p.got[e.T]++
	}
	if e.landed && e.T <= p.W && e.T > p.C0 {
		p.w.fail("p%d is shown stamp %d, landed at or below W=%d", p.id, e.T, p.W)
	}
	if len(e.touches) > 0 {
		p.places[e.T] = append(p.places[e.T], Place{s, rev, e})
	}
	p.learnEntry(rev, e)
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

// advance closes what can be closed, and brings the watchers up to it.
func (p *Process) advance() {
	if !p.ready {
		return
	}
	fenced := p.fenced()
	for p.closes(p.W+1, fenced) {
		p.W++
		if c := &p.w.coord; c.has && p.W > c.clock && p.w.holds(neverRestored) && p.w.holds(closedBelowClock) {
			p.w.fail("p%d closed W=%d above the clock %d (epoch %d)", p.id, p.W, c.clock, c.epoch)
		}
	}
	p.pump()
}

// fenced is the highest fence that all streams have shown.
func (p *Process) fenced() int64 {
	fenced := int64(1 << 62)
	for _, s := range p.streams {
		fenced = min(fenced, s.F)
	}
	return fenced
}

// closes tells whether a stamp is closed: all of it was seen, or every member is fenced above it.
func (p *Process) closes(T, fenced int64) bool {
	if parts := p.need[T]; parts > 0 && p.w.holds(partsCloseTogether) {
		return p.got[T] >= parts
	}
	return p.marks[T] != nil || T <= fenced
}
