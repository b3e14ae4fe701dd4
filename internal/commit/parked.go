package commit

import (
	"slices"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// await waits until an operation is ready or its caller has gone, and wakes the lane then. It parks an operation that takes long:
// it would hold up every reader of the meta cluster with its stamp.
func (l *lane) await(op *Op) {
	late := time.NewTicker(stallAfter)
	defer late.Stop()
	parked := false
	for {
		select {
		case <-op.Ready:
		case <-op.ctx.Done():
		case <-l.p.closing:
			if parked {
				op.finish(Result{Err: l.p.ended()})
			}
			return
		case <-late.C:
			parked = parked || l.park(op)
			continue
		}
		if parked && !l.unpark(op) {
			op.finish(Result{Err: l.p.ended()})
		}
		lifetime.Wake(l.wakeStamp)
		lifetime.Wake(l.wakeSend)
		return
	}
}

// park takes an operation out of the lane and surrenders its stamp if it has one. False: the operation is in neither queue just
// now, because a stamp is on its way to it, or because it became ready and is leaving.
func (l *lane) park(op *Op) bool {
	l.mu.Lock()
	var given []Stamp
	i, j := slices.Index(l.queue, op), slices.Index(l.stamped, op)
	switch {
	case i >= 0:
		l.queue = slices.Delete(l.queue, i, i+1)
	case j >= 0:
		l.stamped = slices.Delete(l.stamped, j, j+1)
		given = l.unstampLocked([]*Op{op})
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	lifetime.Wake(l.wakeStamp)
	return i >= 0 || j >= 0
}

// unpark puts a parked operation at the head of the queue. False: the lane is closed.
func (l *lane) unpark(op *Op) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.queue = slices.Insert(l.queue, 0, op)
	}
	return !l.closed
}
