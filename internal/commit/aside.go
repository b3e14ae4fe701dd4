package commit

import (
	"slices"
	"time"
)

// await tells the lane when an operation is ready or its caller has gone. One that takes long stands aside meanwhile: its
// stamp would hold up every reader of the meta cluster.
func (l *lane) await(op *Op) {
	late := time.NewTicker(stallAfter)
	defer late.Stop()
	aside := false
	for {
		select {
		case <-op.Ready:
		case <-op.ctx.Done():
		case <-l.p.closing:
			if aside {
				op.finish(Result{Err: l.p.ended()})
			}
			return
		case <-late.C:
			aside = aside || l.setAside(op)
			continue
		}
		if aside && !l.comeBack(op) {
			op.finish(Result{Err: l.p.ended()})
		}
		wake(l.wakeTake)
		wake(l.wakeSend)
		return
	}
}

// setAside takes an operation out of the lane, and gives up its stamp if it has one. False: it is not to be found just now,
// because a stamp is on its way to it, or because it became ready and is leaving.
func (l *lane) setAside(op *Op) bool {
	l.mu.Lock()
	var given []stamp
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
	wake(l.wakeTake)
	return i >= 0 || j >= 0
}

// comeBack puts an operation that stood aside first in the queue, unless the lane is closed.
func (l *lane) comeBack(op *Op) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.queue = slices.Insert(l.queue, 0, op)
	}
	return !l.closed
}
