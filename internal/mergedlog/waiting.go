package mergedlog

// FencedUpTo returns the fence that counts on every member: stamps up to it have landed, or never will.
func (l *Log) FencedUpTo() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.minFence
}

// Waiting says who waits for what is above W: callers of WaitClosed, or events whose keys are not known any more; and other events,
// of which it returns the keys, at most so many.
func (l *Log) Waiting(most int) (callers bool, keys [][]byte) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	callers = len(l.waiters) > 0 || len(l.window.gone) > 0
	for _, p := range l.window.heap {
		for i := range p.evs {
			if len(keys) == most {
				return callers, keys
			}
			keys = append(keys, p.evs[i].Kv.Key)
		}
	}
	return callers, keys
}
