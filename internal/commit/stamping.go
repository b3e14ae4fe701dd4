package commit

import (
	"runtime"
	"slices"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// stampLoop takes stamps from the clock for the operations in the queue, until the lane is closed.
func (l *lane) stampLoop() {
	defer l.p.wg.Done()
	defer lifetime.Wake(l.wakeSend)
	for {
		if d := l.delay(); d > 0 {
			t := time.NewTimer(d)
			select {
			case <-l.wakeStamp:
			case <-t.C:
			case <-l.p.ctx.Done():
			}
			t.Stop()
			if l.p.ctx.Err() == nil {
				continue
			}
		}
		ops, closed := l.wanting()
		if closed {
			return
		}
		if len(ops) == 0 {
			select {
			case <-l.wakeStamp:
				runtime.Gosched() // let the callers that the last landing woke arrive as well: they share one add
				continue
			case <-l.p.ctx.Done():
				return
			}
		}
		first, epoch, err := l.p.cfg.Clock.Take(l.p.ctx, int64(len(ops)))
		if err != nil {
			l.fail(ops, err)
			continue
		}
		l.stamp(ops, first, epoch)
	}
}

// delay returns how long the queue should still grow before stampLoop takes stamps for it, as every add on the clock has a cost.
// While a flight is out, the stamps are needed when it lands, which is expected to take about as long as the last one did. Just after
// a landing, stampLoop waits for most of the callers that the landing woke. An operation that finds its lane idle does not wait.
func (l *lane) delay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.queue) + len(l.stamped)
	if l.closed || l.stalled > 0 || len(l.queue) == 0 || l.queue[0].exclusive() || n >= l.maxOps() {
		return 0
	}
	if l.flights > 0 {
		return min(l.took*2/3, maxGather) - time.Since(l.left)
	}
	if 4*n >= 3*min(l.want, l.maxOps()) {
		return 0
	}
	return min(l.took/4, maxDelay) - time.Since(l.landed)
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
	if l.closed || l.stalled > 0 {
		given = l.requeueLocked(ops)
	} else {
		l.stamped = append(l.stamped, ops...)
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	lifetime.Wake(l.wakeSend)
}

// wanting takes the operations that get the next stamps off the queue: as many as make a batch of what is stamped, or one exclusive
// operation, when no other operation of this lane has a stamp.
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
	return ops, false
}

// fail ends operations for which the clock gave no stamps.
func (l *lane) fail(ops []*Op, err error) {
	if l.p.ctx.Err() != nil {
		err = l.p.ended()
	}
	l.mu.Lock()
	l.alone = l.alone && !ops[0].exclusive()
	l.mu.Unlock()
	finish(ops, err)
}

// maxDelay bounds the delay after a landing.
const maxDelay = 200 * time.Microsecond
