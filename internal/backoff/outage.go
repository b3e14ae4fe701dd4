package backoff

import "sync/atomic"

// Outage tells the first failure in a row from the others, so that an outage is logged once and not with each attempt. The zero
// value is ready; it is safe for concurrent use.
type Outage struct{ failing atomic.Bool }

// Begins notes a failure, and reports whether it is the first since all was well.
func (o *Outage) Begins() bool { return !o.failing.Swap(true) }

// Ends notes that all is well, and reports whether it was not before.
func (o *Outage) Ends() bool { return o.failing.Load() && o.failing.Swap(false) }

// Lasts reports whether there was a failure since all was well.
func (o *Outage) Lasts() bool { return o.failing.Load() }
