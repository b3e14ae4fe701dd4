package commit

import "sync"

const (
	maxFlights = 2
	// secondFlight is how many operations must wait before they travel beside a flight that is out: fewer are
	// better off joining the next one, since every member transaction has a cost of its own.
	secondFlight = 16
)

// lane is the way to one member.
type lane struct {
	p      *Pipeline
	index  int
	member Member

	wakeTake, wakeSend chan struct{}

	mu        sync.Mutex
	closed    bool
	queue     []*Op   // no stamp yet
	stamped   []*Op   // in stamp order
	given     []stamp // surrendered stamps to carry
	busyKeys  map[string]struct{}
	busySlots map[int]struct{}
	flights   int
	alone     bool // an exclusive operation is stamped or in flight
	stalled   int  // flights that are out for long or unknown
}

func newLane(p *Pipeline, index int, m Member) *lane {
	return &lane{
		p: p, index: index, member: m,
		wakeTake: make(chan struct{}, 1), wakeSend: make(chan struct{}, 1),
		busyKeys: map[string]struct{}{}, busySlots: map[int]struct{}{},
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *lane) enqueue(op *Op) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue = append(l.queue, op)
	l.mu.Unlock()
	if op.Ready != nil && !op.ready() {
		l.p.wg.Add(1)
		go func() {
			defer l.p.wg.Done()
			select {
			case <-op.Ready:
				wake(l.wakeSend)
			case <-l.p.ctx.Done():
			}
		}()
	}
	wake(l.wakeTake)
	return nil
}

// carry accepts surrendered stamps unless the lane's own member is not answering.
func (l *lane) carry(stamps []stamp) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled > 0 || l.closed {
		return false
	}
	l.given = append(l.given, stamps...)
	wake(l.wakeSend)
	return true
}

// takeLoop gives stamps to what waits in the queue.
func (l *lane) takeLoop() {
	defer l.p.wg.Done()
	for {
		ops := l.wanting()
		if len(ops) == 0 {
			select {
			case <-l.wakeTake:
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
		l.p.hold(first, len(ops))
		l.mu.Lock()
		for i, op := range ops {
			op.stamp, op.epoch = first+int64(i), epoch
			l.stamped = append(l.stamped, op)
		}
		l.mu.Unlock()
		wake(l.wakeSend)
	}
}

// wanting takes the next operations to stamp off the queue: about a batch beyond what is stamped already, and an exclusive
// one only by itself, when nothing of this lane that has a stamp is still on its way.
func (l *lane) wanting() []*Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled > 0 || l.alone || len(l.queue) == 0 {
		return nil
	}
	room := l.p.cfg.MaxTxnOps/2 - len(l.stamped)
	n := 0
	for n < len(l.queue) && n < room && !l.queue[n].exclusive() {
		n++
	}
	if l.queue[0].exclusive() {
		if len(l.stamped) > 0 || l.flights > 0 {
			return nil
		}
		l.alone, n = true, 1
	}
	if n <= 0 {
		return nil
	}
	ops := append([]*Op(nil), l.queue[:n]...)
	l.queue = append(l.queue[:0], l.queue[n:]...)
	return ops
}

func (l *lane) fail(ops []*Op, err error) {
	if l.p.ctx.Err() != nil {
		err = ErrClosed
	}
	for _, op := range ops {
		op.finish(Result{Err: err})
	}
	l.mu.Lock()
	l.alone = false
	l.mu.Unlock()
}

// sendLoop fills flights and sends them off.
func (l *lane) sendLoop() {
	defer l.p.wg.Done()
	for {
		f := l.board()
		if f == nil {
			select {
			case <-l.wakeSend:
				continue
			case <-l.p.ctx.Done():
				return
			}
		}
		l.p.wg.Add(1)
		go func() {
			defer l.p.wg.Done()
			f.fly()
		}()
		wake(l.wakeTake)
	}
}

// board picks what can travel now and builds it. Nil: nothing, until something changes.
func (l *lane) board() *flight {
	for {
		f, picked := l.pick()
		if f == nil {
			return nil
		}
		waits := f.build(picked)
		if len(f.ops) > 0 || f.exclusive != nil || len(f.surrender) > 0 {
			return f
		}
		l.mu.Lock()
		l.flights--
		l.mu.Unlock()
		if waits {
			return nil // for the landing of the flight that holds a slot clock it needs
		}
	}
}

// pick takes the operations of the next flight off the stamped ones: ready, on keys that no other flight holds, in stamp order.
func (l *lane) pick() (*flight, []*Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flights >= maxFlights || l.stalled > 0 || (len(l.stamped) == 0 && len(l.given) == 0) {
		return nil, nil
	}
	if l.flights > 0 && len(l.stamped) < secondFlight {
		return nil, nil
	}
	f := &flight{l: l}
	var picked []*Op
	var waiting map[string]struct{} // keys of operations that stay behind: later ones on them stay as well
	rest := l.stamped[:0]
	size := 0
	for _, op := range l.stamped {
		if len(picked) < l.maxOps() && (size == 0 || size+op.Size <= l.p.cfg.MaxBytes) && (f.epoch == 0 || f.epoch == op.epoch) && op.ready() && l.free(op, waiting) {
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
	f.surrender = l.takeGiven(f.epoch, l.maxOps()-len(picked))
	if len(picked) == 0 && len(f.surrender) == 0 {
		return nil, nil
	}
	l.flights++
	return f, picked
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

// maxOps bounds a flight's operations: with as many marks on the refused branch, two lists share max-txn-ops.
func (l *lane) maxOps() int { return l.p.cfg.MaxTxnOps/2 - 2 }

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

// claim marks the slot clocks that an operation sets as taken, unless another operation in flight sets one of them.
func (l *lane) claim(slots []int) bool {
	if len(slots) == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range slots {
		if _, busy := l.busySlots[s]; busy {
			return false
		}
	}
	for _, s := range slots {
		l.busySlots[s] = struct{}{}
	}
	return true
}

// putBack returns operations that lost their place in a flight: they keep their stamps and go first next time.
func (l *lane) putBack(ops []*Op) {
	l.mu.Lock()
	for _, op := range ops {
		l.freeKeys(op)
	}
	l.stamped = append(ops, l.stamped...)
	l.mu.Unlock()
}

func (l *lane) freeKeys(op *Op) {
	for _, k := range op.Keys {
		delete(l.busyKeys, string(k))
	}
}

// giveUpStamps gives up the stamps that wait to be sent while the member does not answer: they would hold up every
// reader of the meta cluster. Their operations stay and get new ones.
func (l *lane) giveUpStamps() {
	l.mu.Lock()
	ops, given := l.stamped, l.given
	l.queue = append(ops, l.queue...)
	l.stamped, l.given = nil, nil
	for _, op := range ops {
		given = append(given, stamp{op.stamp, op.epoch})
		l.alone = l.alone && !op.exclusive()
	}
	l.mu.Unlock()
	l.p.surrender(l.index+1, given...)
}

// drain ends what still waits when the pipeline is closed.
func (l *lane) drain() {
	l.mu.Lock()
	l.closed = true
	ops := append(l.queue, l.stamped...)
	l.queue, l.stamped = nil, nil
	l.mu.Unlock()
	for _, op := range ops {
		op.finish(Result{Err: ErrClosed})
	}
}
