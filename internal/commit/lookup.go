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

	mu   sync.Mutex
	over bool
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
	k.l.unpark(k.ops)
}

// park parks the operations of a lookup that is late, and again later those that it cannot find now.
func (k *lookup) park() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.over {
		k.l.park(k.ops)
		k.late.Reset(stallAfter)
	}
}

// park takes operations out of the queue, and out of the stamped ones, whose stamps it surrenders. Some may be in neither just now,
// because a stamp is on its way to them.
func (l *lane) park(ops []*Op) {
	l.mu.Lock()
	late := func(op *Op) bool { return slices.Contains(ops, op) }
	var parked, unstamped []*Op
	l.queue, parked = without(l.queue, late)
	l.stamped, unstamped = without(l.stamped, late)
	l.parked = slices.Concat(l.parked, parked, unstamped)
	given := l.unstampLocked(unstamped)
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	l.wake()
}

// unpark puts those of some operations that are parked at the head of the queue.
func (l *lane) unpark(ops []*Op) {
	l.mu.Lock()
	var back []*Op
	l.parked, back = without(l.parked, func(op *Op) bool { return slices.Contains(ops, op) })
	l.queue = slices.Insert(l.queue, 0, back...)
	l.mu.Unlock()
	l.wake()
}

// without splits operations into those that stay, and those that go.
func without(ops []*Op, goes func(*Op) bool) (stay, gone []*Op) {
	for _, op := range ops {
		if goes(op) {
			gone = append(gone, op)
		} else {
			stay = append(stay, op)
		}
	}
	return stay, gone
}
