package backoff

import "sync"

// Outages is an Outage of many who fail together: it lasts while any of them does. The zero value is ready; it is safe for
// concurrent use.
type Outages[K comparable] struct {
	mu      sync.Mutex
	failing map[K]struct{}
}

// Begins notes that who fails, and reports whether nobody did before.
func (o *Outages[K]) Begins(who K) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing == nil {
		o.failing = map[K]struct{}{}
	}
	first := len(o.failing) == 0
	o.failing[who] = struct{}{}
	return first
}

// Ends notes that who does not fail, or has gone, and reports whether it was the last one that did.
func (o *Outages[K]) Ends(who K) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, failed := o.failing[who]
	delete(o.failing, who)
	return failed && len(o.failing) == 0
}
