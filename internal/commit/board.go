package commit

import (
	"slices"
	"time"

	"github.com/metaetcd/metaetcd/internal/translate"
)

// sendLoop fills flights and sends them off.
func (l *lane) sendLoop() {
	defer l.p.wg.Done()
	for {
		f := l.board()
		if f == nil {
			if l.empty() {
				return
			}
			select {
			case <-l.wakeSend:
				continue
			case <-l.p.ctx.Done():
				return
			}
		}
		l.p.wg.Go(f.fly)
		wake(l.wakeTake)
	}
}

// empty reports, when the lane is closed, that nothing is left to carry, and that nothing more will be accepted.
func (l *lane) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = l.done || l.closed && !l.taking && l.flights == 0 && len(l.given) == 0
	return l.done
}

// board picks what can travel now and builds it. Nil: nothing, until something changes.
func (l *lane) board() *flight {
	for {
		f, picked := l.pick()
		if f == nil {
			return nil
		}
		waits := f.build(picked)
		fly := len(f.ops) > 0 || f.exclusive != nil || len(f.surrender) > 0
		l.mu.Lock()
		if fly {
			l.inAir = append(l.inAir, f)
		} else {
			l.flights--
		}
		l.mu.Unlock()
		if fly {
			return f
		}
		wake(l.wakeTake) // an exclusive operation may have waited for this
		if waits {
			return nil // for the landing of the flight that holds a slot clock it needs
		}
	}
}

// pick takes the operations of the next flight off the stamped ones: ready (or without a caller: build ends them), on keys
// that no other flight holds, in stamp order.
func (l *lane) pick() (*flight, []*Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flights >= maxFlights || l.stalled > 0 || (len(l.stamped) == 0 && len(l.given) == 0) {
		return nil, nil
	}
	if l.flights > 0 && len(l.stamped) < l.maxOps() {
		return nil, nil // better off in the next flight: every member transaction has a cost of its own
	}
	if l.gathering() {
		return nil, nil
	}
	f := &flight{l: l}
	var picked []*Op
	var waiting map[string]struct{} // keys of operations that stay behind: later ones on them stay as well
	rest := l.stamped[:0]
	size := 0
	for _, op := range l.stamped {
		if len(picked) < l.maxOps() && (size == 0 || size+op.Size <= l.p.cfg.MaxBytes) && (f.epoch == 0 || f.epoch == op.epoch) && (op.ready() || op.ctx.Err() != nil) && l.free(op, waiting) {
			f.epoch = op.epoch
			size += op.Size
			picked = append(picked, op)
			for _, k := range op.Keys {
				l.busyKeys[string(k)] = struct{}{}
			}
			continue
		}
		rest = append(rest, op)
		if waiting == nil {
			waiting = map[string]struct{}{}
		}
		for _, k := range op.Keys {
			waiting[string(k)] = struct{}{}
		}
	}
	clear(l.stamped[len(rest):])
	l.stamped = rest
	if f.epoch == 0 {
		f.epoch = l.p.cfg.Clock.Epoch()
	}
	f.surrender = l.takeGiven(f.epoch, maxSurrender)
	if len(picked) == 0 && len(f.surrender) == 0 {
		return nil, nil
	}
	l.flights++
	l.left = time.Now()
	return f, picked
}

// maxGather bounds the wait of gathering.
const maxGather = 5 * time.Millisecond

// gathering reports whether the lane had better wait a moment before it sends what it has. Just after a landing, the
// callers that it woke are about to come back: without them, two half cohorts would take turns, each waiting for the
// other, and every member transaction has a cost of its own. It waits for most of those that were on the lane then, at
// most half as long as the last flight was out; whoever comes later, or alone, does not wait.
func (l *lane) gathering() bool {
	if l.flights > 0 || 4*len(l.stamped) >= 3*min(l.want, l.maxOps()) {
		return false
	}
	left := min(l.took/2, maxGather) - time.Since(l.landed)
	if left <= 0 {
		return false
	}
	if !l.armed {
		l.armed = true
		time.AfterFunc(left, func() {
			l.mu.Lock()
			l.armed = false
			l.mu.Unlock()
			wake(l.wakeSend)
		})
	}
	return true
}

// takeGiven takes up to n surrendered stamps of the epoch. Stamps of an older one are dead by definition, and a mark of
// theirs could be mistaken for a new stamp: they are forgotten.
func (l *lane) takeGiven(epoch int64, n int) []int64 {
	var out []int64
	rest := l.given[:0]
	for _, s := range l.given {
		switch {
		case s.epoch < epoch:
		case s.epoch == epoch && len(out) < n:
			out = append(out, s.n)
		default:
			rest = append(rest, s)
		}
	}
	l.given = rest
	return out
}

// maxOps bounds a flight's operations: with two guards each they fit into max-txn-ops together.
func (l *lane) maxOps() int { return min(max(l.p.cfg.MaxTxnOps/2-5, 1), maxBatch) }

func (l *lane) free(op *Op, waiting map[string]struct{}) bool {
	for _, k := range op.Keys {
		if _, busy := l.busyKeys[string(k)]; busy {
			return false
		}
		if _, busy := waiting[string(k)]; busy {
			return false
		}
	}
	return true
}

// together reports whether the operations of the next flight land all or none.
func (l *lane) together() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.careful == 0 {
		return true
	}
	l.careful--
	return false
}

// beCareful notes that a guard refused a whole flight: other writers are about.
func (l *lane) beCareful() {
	l.mu.Lock()
	l.careful = carefulFlights
	l.mu.Unlock()
}

// passed reports whether another operation of this process has set a slot clock that the operation needs below its stamp.
func (l *lane) passed(g *translate.Guarded) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(g.Below, func(s int) bool { return l.slotClocks[s] >= g.Stamp })
}

// claim takes the slot clocks that an operation sets. It must wait while another operation in flight sets one of them, or,
// in the other flight, needs one below a stamp that is lower: which flight arrives first is open.
func (l *lane) claim(f *flight, g *translate.Guarded) bool {
	if len(g.Slots) == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range g.Slots {
		if _, busy := l.busySlots[s]; busy || l.neededLocked(f, s) {
			return false
		}
	}
	for _, s := range g.Slots {
		l.busySlots[s] = struct{}{}
		l.slotClocks[s] = max(l.slotClocks[s], g.Stamp)
	}
	return true
}

// neededLocked reports whether an operation of another flight than f needs a slot clock to stay.
func (l *lane) neededLocked(f *flight, slot int) bool {
	for _, other := range l.inAir {
		if other == f {
			continue
		}
		if other.needsLocked(slot) {
			return true
		}
	}
	return false
}

// needsLocked reports whether an operation of the flight, which is in the air, needs a slot clock below its stamp.
func (f *flight) needsLocked(slot int) bool {
	if f.below == nil {
		f.below = make(map[int]struct{}, len(f.ops))
		for _, o := range f.ops {
			for _, s := range o.guarded.Below {
				f.below[s] = struct{}{}
			}
		}
	}
	_, needed := f.below[slot]
	return needed
}

// putBack returns operations that lost their place in a flight: they keep their stamps and go first next time, unless the
// lane has stalled meanwhile.
func (l *lane) putBack(ops []*Op) {
	var given []stamp
	l.mu.Lock()
	for _, op := range ops {
		l.freeKeys(op)
	}
	if l.stalled > 0 {
		given = l.requeueLocked(ops)
	} else {
		l.stamped = slices.Insert(l.stamped, 0, ops...)
	}
	l.mu.Unlock()
	l.p.surrender(l.index+1, given...)
}

// freeLocked gives back what an operation in a flight holds.
func (l *lane) freeLocked(o boarded) {
	l.freeKeys(o.Op)
	for _, s := range o.guarded.Slots {
		delete(l.busySlots, s)
	}
}

func (l *lane) freeKeys(op *Op) {
	for _, k := range op.Keys {
		delete(l.busyKeys, string(k))
	}
}
