package commit

import (
	"runtime"
	"slices"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// stampLoop takes stamps from the clock for the operations in the queue, until the lane is closed.
func (l *lane) stampLoop() {
	defer l.p.wg.Done()
	defer lifetime.Wake(l.wakeSend)
	for {
		ops, closed := l.wanting()
		if closed {
			return
		}
		if len(ops) == 0 {
			select {
			case <-l.wakeStamp:
				l.gather()
				continue
			case <-l.p.ctx.Done():
				return
			}
		}
		l.look(ops)
		first, epoch, err := l.p.cfg.Clock.Take(l.p.ctx, int64(len(ops)))
		if err != nil {
			l.fail(ops, err)
			continue
		}
		l.stamp(ops, first, epoch)
	}
}

// gather lets the callers that a landing woke come back before stamps are taken: they share one add, and one flight. The first time
// those run that wait for this processor; the second time those that another one took over. A timer would be coarser than what it
// waits for.
func (l *lane) gather() {
	runtime.Gosched()
	runtime.Gosched()
}

// stamp gives operations their stamps. If the lane has stalled or closed meanwhile, they go back to the queue and the stamps are
// surrendered.
func (l *lane) stamp(ops []*Op, first, epoch int64) {
	l.p.hold(first, epoch, len(ops))
	for i, op := range ops {
		op.stamp, op.epoch = first+int64(i), epoch
	}
	var given []Stamp
	l.mu.Lock()
	l.taking = false
	if l.closed || l.stalled > 0 {
		given = l.requeueLocked(ops)
	} else {
		l.stamped = append(l.stamped, ops...)
		l.unseen = true
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	lifetime.Wake(l.wakeSend)
}

// wanting takes the operations that get the next stamps off the queue: as many as make a batch of what is stamped, or one exclusive
// operation, when no other operation of this lane has a stamp. While something is on its way it takes none unless there is a whole
// batch: what comes until the landing travels together, and a stamp that waits holds up every reader of the meta cluster.
func (l *lane) wanting() (ops []*Op, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.stamping = false
		return nil, true
	}
	if l.stalled > 0 || l.alone || len(l.queue) == 0 {
		return nil, false
	}
	if len(l.queue)+len(l.stamped) < l.maxOps() && (l.laden > 0 || l.unseen) {
		return nil, false
	}
	room, seen := l.maxOps()-len(l.stamped), 0
	for _, op := range l.queue {
		if len(ops) >= room || op.exclusive() && len(ops) > 0 {
			break
		}
		if err := op.ctx.Err(); err != nil { // its caller has gone
			op.finish(Result{Err: err})
			seen++
			continue
		}
		if op.exclusive() && (len(l.stamped) > 0 || l.flights > 0) {
			break
		}
		ops = append(ops, op)
		seen++
		if op.exclusive() {
			l.alone = true
			break
		}
	}
	l.queue = slices.Delete(l.queue, 0, seen)
	l.taking = len(ops) > 0
	return ops, false
}

// fail ends operations for which the clock gave no stamps.
func (l *lane) fail(ops []*Op, err error) {
	if l.p.ctx.Err() != nil {
		err = l.p.ended()
	}
	l.mu.Lock()
	l.taking = false
	l.alone = l.alone && !ops[0].exclusive()
	l.mu.Unlock()
	finish(ops, err)
}
