package commit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lookup is one request for the states that operations lack, those of a batch mostly, beside the stamps that they wait for. One that
// takes long parks its operations: they would hold up every reader of the meta cluster with their stamps.
type lookup struct {
	l    *lane
	ops  []*Op
	late *time.Timer // guarded by mu

	mu     sync.Mutex
	over   bool
	parked []*Op
}

// look reads the states that operations lack, in as few requests as their member allows.
func (l *lane) look(ops []*Op) {
	k, keys := &lookup{l: l}, 0
	for _, op := range ops {
		if len(op.Missing) == 0 || op.asked {
			continue
		}
		op.asked = true
		if keys += len(op.Missing); keys > l.p.cfg.MaxTxnOps && len(k.ops) > 0 {
			k.start()
			k, keys = &lookup{l: l}, len(op.Missing)
		}
		k.ops = append(k.ops, op)
	}
	if len(k.ops) > 0 {
		k.start()
	}
}

func (k *lookup) start() {
	k.mu.Lock()
	k.late = time.AfterFunc(stallAfter, k.park)
	k.mu.Unlock()
	k.l.p.wg.Go(k.run)
}

// run asks, and lets the operations be built whatever the answer is: what stays unknown is refused.
func (k *lookup) run() {
	p := k.l.p
	var keys [][]byte
	for _, op := range k.ops {
		keys = append(keys, op.Missing...)
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
	defer cancel()
	rev, states, err := k.l.member.States(ctx, keys)
	for _, op := range k.ops {
		if err == nil {
			n := len(op.Missing)
			op.Know(rev, states[:n:n])
			states = states[n:]
		}
	}
	k.mu.Lock()
	k.over = true
	k.late.Stop()
	k.mu.Unlock()
	for _, op := range k.ops {
		close(op.known)
	}
	for _, op := range k.parked {
		if !k.l.unpark(op) {
			op.finish(Result{Err: p.ended()})
		}
	}
	k.l.wake()
}

// park parks the operations of a lookup that is late, and again later those that it cannot find now.
func (k *lookup) park() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	for _, op := range k.ops {
		if !slices.Contains(k.parked, op) && k.l.park(op) {
			k.parked = append(k.parked, op)
		}
	}
	k.late.Reset(stallAfter)
}

// park takes an operation out of the lane and surrenders its stamp if it has one. False: the operation is in neither queue just
// now, because a stamp is on its way to it.
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
	l.wake()
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
