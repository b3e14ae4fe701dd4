package commit

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// flight is one member transaction: a batch with surrendered stamps, or one exclusive operation.
type flight struct {
	l         *lane
	epoch     int64
	ops       []built
	surrender []int64
	exclusive *translate.Exclusive
	alone     *Op       // the exclusive operation
	parts     [][]built // of a batch that the server refused: what is still to be sent, last first

	light       bool          // it carries only marks of surrendered stamps: nothing waits for it
	late        *time.Timer   // see watch
	lateHandled chan struct{} // closed when the lane knows

	stalled bool             // guarded by the lane's lock
	below   map[int]struct{} // see needsLocked; guarded like stalled
}

// built is an operation with its part of a flight's request.
type built struct {
	*Op
	guarded *translate.Guarded
}

// sendLoop schedules flights and sends them, until the lane is closed and empty.
func (l *lane) sendLoop() {
	defer l.p.wg.Done()
	for {
		f := l.schedule()
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
		lifetime.Wake(l.wakeStamp)
	}
}

// empty reports whether a closed lane has nothing left to carry; carry accepts nothing from then on.
func (l *lane) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = l.done || l.closed && !l.stamping && l.flights == 0 && len(l.surrendered) == 0
	return l.done
}

// schedule picks what can travel now and builds its flight. Nil: nothing can, until the lane is woken.
func (l *lane) schedule() *flight {
	for {
		f, picked := l.pick()
		if f == nil {
			return nil
		}
		waits := f.build(picked)
		if l.launch(f) {
			return f
		}
		lifetime.Wake(l.wakeStamp) // an exclusive operation may have waited for this
		if waits {
			return nil // for the landing of the flight that holds a slot clock it needs
		}
	}
}

// launch puts a flight that was built into the air. False: there is nothing in it.
func (l *lane) launch(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.light = len(f.ops) == 0 && f.exclusive == nil
	switch {
	case f.light && len(f.surrender) == 0:
		l.leaveLocked()
		return false
	case f.light:
		l.laden--
	}
	l.inAir = append(l.inAir, f)
	return true
}

// leaveLocked gives up the place of a flight that carries nothing.
func (l *lane) leaveLocked() { l.flights, l.laden = l.flights-1, l.laden-1 }

// pick takes the operations of the next flight off the stamped ones, in the order of their stamps: those that are ready and whose keys
// no other flight holds. It also picks operations whose callers have gone, which build ends.
func (l *lane) pick() (*flight, []*Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unseen {
		l.unseen = false
		lifetime.Wake(l.wakeStamp) // it waits while something is about to leave
	}
	if l.flights >= maxFlights || l.stalled > 0 || (len(l.stamped) == 0 && len(l.surrendered) == 0) {
		return nil, nil
	}
	if l.laden > 0 && len(l.stamped) < l.maxOps() || l.flights > 0 && len(l.stamped) == 0 {
		return nil, nil // they are better off in the next flight: every member transaction has a cost of its own
	}
	f := &flight{l: l}
	var picked []*Op
	var waiting map[string]struct{} // keys of operations that stay: later operations on these keys stay as well
	rest := l.stamped[:0]
	size := 0
	for _, op := range l.stamped {
		if len(picked) < l.maxOps() && (size == 0 || size+op.Size <= l.p.cfg.MaxBytes) && (f.epoch == 0 || f.epoch == op.epoch) && (op.ready() || op.ctx.Err() != nil) && l.free(op, waiting) {
			f.epoch = op.epoch
			size += op.Size
			picked = append(picked, op)
			l.holdKeys(op)
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
	f.surrender = l.takeSurrendered(f.epoch, maxSurrender)
	if len(picked) == 0 && len(f.surrender) == 0 {
		return nil, nil
	}
	l.flights, l.laden = l.flights+1, l.laden+1
	return f, picked
}

// takeSurrendered takes up to n of the epoch's surrendered stamps. It drops those of older epochs: they are dead by definition, and
// their marks could be mistaken for those of new stamps.
func (l *lane) takeSurrendered(epoch int64, n int) []int64 {
	var out []int64
	rest := l.surrendered[:0]
	for _, s := range l.surrendered {
		switch {
		case s.Epoch < epoch:
		case s.Epoch == epoch && len(out) < n:
			out = append(out, s.Rev)
		default:
			rest = append(rest, s)
		}
	}
	l.surrendered = rest
	return out
}

// maxOps bounds the operations of a flight: that many fit into max-txn-ops with two guards each.
func (l *lane) maxOps() int { return min(max(l.p.cfg.MaxTxnOps/2-5, 1), maxBatch) }

// free reports whether no flight and no operation that waits holds a key of an operation.
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

// beCareful makes the operations of the next flights land one by one. A guard has refused a whole flight, so other processes write
// to the same slots.
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

// reserveSlots reserves the slot clocks that an operation sets. False: the operation must wait, because another operation in flight
// sets one of them, or because one in another flight needs such a clock below its own stamp, and either flight may arrive first.
func (l *lane) reserveSlots(f *flight, g *translate.Guarded) bool {
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

// neededLocked reports whether an operation of another flight than f needs a slot clock to stay as it is.
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

// putBack puts operations that found no place in a flight back at the head of the stamped ones. If the lane has stalled meanwhile, they
// lose their stamps.
func (l *lane) putBack(ops []*Op) {
	var given []Stamp
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

// freeLocked frees the keys and slot clocks that an operation in a flight holds.
func (l *lane) freeLocked(o built) {
	l.freeKeys(o.Op)
	for _, s := range o.guarded.Slots {
		delete(l.busySlots, s)
	}
}

func (l *lane) holdKeys(op *Op) {
	for _, k := range op.Keys {
		l.busyKeys[string(k)] = struct{}{}
	}
}

func (l *lane) freeKeys(op *Op) {
	for _, k := range op.Keys {
		delete(l.busyKeys, string(k))
	}
}

// build makes the parts of the request for the picked operations. Operations that cannot travel go back or end. waits reports that some
// went back until another flight has landed.
func (f *flight) build(picked []*Op) (waits bool) {
	l, limit := f.l, f.l.p.cfg.MaxTxnOps
	costliest := 0
	var back []*Op
	wanted := map[int]struct{}{} // slot clocks that the operations in back set: what needs one of these must not overtake them
	for i, op := range picked {
		if err := op.ctx.Err(); err != nil {
			f.drop(op, err)
			continue
		}
		if op.epoch < l.p.cfg.Clock.Epoch() {
			f.drop(op, translate.ErrStale)
			continue
		}
		if op.exclusive() {
			f.buildExclusive(op)
			continue
		}
		g, err := op.Build(op.stamp, i)
		if err != nil {
			f.drop(op, err)
			continue
		}
		c := max(costliest, g.Cost())
		switch n := len(f.ops); {
		case !translate.Fits(1, g.Cost(), limit):
			f.drop(op, rpctypes.ErrGRPCTooManyOps)
		case l.passed(g):
			f.drop(op, translate.ErrStale)
		case translate.Fits(n+1, c, limit) && disjoint(wanted, g.Below) && l.reserveSlots(f, g):
			costliest = c
			f.ops = append(f.ops, built{op, g})
		default:
			back = append(back, op)
			for _, s := range g.Slots {
				wanted[s] = struct{}{}
			}
		}
	}
	if len(back) > 0 {
		l.putBack(back)
	}
	return len(back) > 0
}

func disjoint(a map[int]struct{}, b []int) bool {
	return len(a) == 0 || !slices.ContainsFunc(b, func(s int) bool {
		_, ok := a[s]
		return ok
	})
}

func (f *flight) buildExclusive(op *Op) {
	x, err := op.Exclude(op.stamp, op.epoch)
	if err == nil && x.Cost() > f.l.p.cfg.MaxTxnOps {
		err = rpctypes.ErrGRPCTooManyOps
	}
	if err != nil {
		f.drop(op, err)
		return
	}
	f.exclusive, f.alone = x, op
	f.giveUp(f.l.index, f.surrender...) // it travels alone
	f.surrender = nil
}

// drop takes an operation off the flight and surrenders its stamp. With translate.ErrStale the operation gets a new one; any other
// error ends it.
func (f *flight) drop(op *Op, err error) {
	l := f.l
	var given []Stamp
	l.mu.Lock()
	l.freeKeys(op)
	if errors.Is(err, translate.ErrStale) {
		given = l.requeueLocked([]*Op{op})
	} else {
		given = l.unstampLocked([]*Op{op})
		op.finish(Result{Err: err})
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	lifetime.Wake(l.wakeStamp)
}
