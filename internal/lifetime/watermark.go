package lifetime

import "sync/atomic"

// Watermark is a number that only grows, from 0. It is safe for concurrent use.
type Watermark struct{ n atomic.Int64 }

// Load returns the number.
func (w *Watermark) Load() int64 { return w.n.Load() }

// Raise sets the number to rev unless it is higher.
func (w *Watermark) Raise(rev int64) {
	for {
		old := w.n.Load()
		if rev <= old || w.n.CompareAndSwap(old, rev) {
			return
		}
	}
}
