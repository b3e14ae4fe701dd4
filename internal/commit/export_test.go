package commit

// Queued is how many operations of a member wait for a stamp.
func (p *Pipeline) Queued(member int) int {
	l := p.lanes[member]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}
