package commit

import (
	"runtime"
	"slices"
	"time"
)

// takeLoop gives stamps to what waits in the queue.
func (l *lane) takeLoop() {
	defer l.p.wg.Done()
	defer wake(l.wakeSend)
	for {
		if d := l.dally(); d > 0 {
			t := time.NewTimer(d)
			select {
			case <-l.wakeTake:
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
			case <-l.wakeTake:
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

// dally returns how long the queue may still grow before it takes its stamps: an add has a cost of its own, too. While a
// flight is out, stamps are wanted when it lands, about as long after it left as the last one took; just after a landing,
// most of those that it woke. Whoever comes to an idle lane does not wait.
func (l *lane) dally() time.Duration {
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
	return min(l.took/4, maxDally) - time.Since(l.landed)
}

// stamp gives operations their stamps. A lane that has stalled or closed meanwhile gives them up.
func (l *lane) stamp(ops []*Op, first, epoch int64) {
	l.p.hold(first, epoch, len(ops))
	for i, op := range ops {
		op.stamp, op.epoch = first+int64(i), epoch
	}
	var given []stamp
	l.mu.Lock()
	if l.closed || l.stalled > 0 {
		given = l.requeueLocked(ops)
	} else {
		l.stamped = append(l.stamped, ops...)
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	wake(l.wakeSend)
}

// wanting takes the next operations to stamp off the queue: about a batch beyond what is stamped already, and an exclusive
// one only by itself, when nothing of this lane that has a stamp is still on its way.
func (l *lane) wanting() (ops []*Op, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.taking = false
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

// fail ends operations that got no stamps.
func (l *lane) fail(ops []*Op, err error) {
	if l.p.ctx.Err() != nil {
		err = l.p.ended()
	}
	l.mu.Lock()
	l.alone = l.alone && !ops[0].exclusive()
	l.mu.Unlock()
	finish(ops, err)
}

// maxDally bounds the wait for the callers that a landing woke.
const maxDally = 200 * time.Microsecond
