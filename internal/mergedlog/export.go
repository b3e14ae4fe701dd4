package mergedlog

// Began returns the revision that Start was given; 0 before. Everything at or below it had landed when the log
// started, and is not released.
func (l *Log) Began() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.start
}

// Parser reads member revisions as a log does, for those who go back to a member's history themselves. It is not
// for concurrent use.
type Parser struct{ p parser }

// NewParser returns a parser for the revisions of one member.
func NewParser(member int) *Parser {
	return &Parser{parser{member: member, bare: true}}
}

// NewKeyParser is NewParser for revisions of which only the changes of some keys are shown, with the manifests
// of deletes at least.
func NewKeyParser(member int) *Parser {
	return &Parser{parser{member: member, bare: true, some: true}}
}

// Parse returns the events of a revision by stamp, those of one stamp in the member's order, and the highest stamp
// that the revision shows; 0: none. It owns the revision, as Append does. Unlike Append it lets events
// pass without the previous value that they need: see Event.Bare.
func (p *Parser) Parse(r *MemberRevision) (evs []Event, highest int64, err error) {
	if err := p.p.parse(r); err != nil {
		return nil, 0, err
	}
	return p.p.evs, p.p.highest, nil
}

// Bare says that the previous value is missing: the event did not create the key. A log never releases such an
// event.
func (e *Event) Bare() bool {
	return e.PrevKv == nil && e.NativeCreate != e.MemberRev
}

// Size is what the event takes in memory, in bytes: its keys and values and a constant.
func (e *Event) Size() int64 { return e.size() }
