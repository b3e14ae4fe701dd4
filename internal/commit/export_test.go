package commit

// Queued is how many operations of a member wait for a stamp.
func (p *Pipeline) Queued(member int) int {
	l := p.lanes[member]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// Stalled reports whether a member has left a flight without an answer for so long that its lane takes no stamps.
func (p *Pipeline) Stalled(member int) bool { return p.lanes[member].overdue() }
