package commit

import (
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/metaetcd/metaetcd/internal/translate"
)

const (
	maxFlights = 2
	// maxSurrender bounds the surrendered stamps of a flight: one record of four kilobytes.
	maxSurrender = 512
	// carefulFlights is how many flights land their operations one by one after a guard refused a whole flight.
	carefulFlights = 64
	// maxBatch bounds a flight whatever the member allows. Its stamps come from one add.
	maxBatch = 1024
	// minPatience is a queue too short to care for what in it has no caller any more.
	minPatience = 1024
)

// lane is the way to one member.
type lane struct {
	p      *Pipeline
	index  int
	member Member

	wakeTake, wakeSend chan struct{}

	mu        sync.Mutex
	closed    bool    // no more operations, no more stamps
	taking    bool    // takeLoop runs
	done      bool    // sendLoop has ended: nobody would carry anything any more
	queue     []*Op   // no stamp yet
	patience  int     // length of the queue at which it is worth a look for callers that have gone
	stamped   []*Op   // in stamp order
	given     []stamp // surrendered stamps to carry
	busyKeys  map[string]struct{}
	busySlots map[int]struct{}
	// slotClocks are the highest stamps that operations of this process set the slots' clocks to, or wanted to.
	slotClocks map[int]int64
	flights    int // in the air, or being built
	inAir      []*flight
	alone      bool // an exclusive operation is stamped or in flight
	stalled    int  // flights that are out for long or unknown
	careful    int  // flights to come whose operations land each by itself

	// See gathering and dally.
	left   time.Time     // when the last flight left
	landed time.Time     // when the last flight landed
	took   time.Duration // how long it was out
	want   int           // operations that were on the lane then
	armed  bool          // a timer will wake sendLoop
}

func newLane(p *Pipeline, index int, m Member) *lane {
	return &lane{
		p: p, index: index, member: m, taking: true, patience: minPatience,
		wakeTake: make(chan struct{}, 1), wakeSend: make(chan struct{}, 1),
		busyKeys: map[string]struct{}{}, busySlots: map[int]struct{}{}, slotClocks: map[int]int64{},
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
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.queue = append(l.queue, op)
	if len(l.queue) >= l.patience { // the member may be away for long
		l.dismissLocked()
		l.patience = max(2*len(l.queue), minPatience)
	}
	if op.Ready != nil && !op.ready() {
		l.p.wg.Go(func() { l.await(op) })
	}
	wake(l.wakeTake)
	return nil
}

// dismissLocked ends the operations in the queue whose callers have gone: they need no stamp.
func (l *lane) dismissLocked() {
	l.queue = slices.DeleteFunc(l.queue, func(op *Op) bool {
		err := op.ctx.Err()
		if err != nil {
			op.finish(Result{Err: err})
		}
		return err != nil
	})
}

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
				op.finish(Result{Err: ErrClosed})
			}
			return
		case <-late.C:
			aside = aside || l.setAside(op)
			continue
		}
		if aside && !l.comeBack(op) {
			op.finish(Result{Err: ErrClosed})
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

// unstampLocked takes the stamps of operations that will not be sent with them, for the caller to surrender.
func (l *lane) unstampLocked(ops []*Op) []stamp {
	var given []stamp
	for _, op := range ops {
		given = append(given, stamp{op.stamp, op.epoch})
		l.alone = l.alone && !op.exclusive()
	}
	return given
}

// requeueLocked sends operations back to the head of the queue, for other stamps, and returns the ones that they had. A
// closed lane ends them.
func (l *lane) requeueLocked(ops []*Op) []stamp {
	given := l.unstampLocked(ops)
	if l.closed {
		finish(ops, ErrClosed)
	} else {
		l.queue = slices.Insert(l.queue, 0, ops...)
	}
	return given
}

// carry accepts surrendered stamps unless the lane's own member is not answering.
func (l *lane) carry(stamps []stamp) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.worksLocked() {
		return false
	}
	l.given = append(l.given, stamps...)
	wake(l.wakeSend)
	return true
}

func (l *lane) works() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worksLocked()
}

func (l *lane) worksLocked() bool { return l.stalled == 0 && !l.done }

func (l *lane) overdue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled > 0
}

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
		err = ErrClosed
	}
	l.mu.Lock()
	l.alone = l.alone && !ops[0].exclusive()
	l.mu.Unlock()
	finish(ops, err)
}

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

// maxDally bounds the wait for the callers that a landing woke.
const maxDally = 200 * time.Microsecond

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
		for _, o := range other.ops {
			if slices.Contains(o.guarded.Below, slot) {
				return true
			}
		}
	}
	return false
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

// stallLocked gives up the stamps that wait to be sent while the member does not answer: they would hold up every reader
// of the meta cluster. Their operations stay and get other ones. It returns the stamps, for the caller to surrender.
func (l *lane) stallLocked() []stamp {
	l.stalled++
	given := append(l.given, l.requeueLocked(l.stamped)...)
	l.stamped, l.given = nil, nil
	return given
}

// close ends what waits. Its stamps are marked by a last flight.
func (l *lane) close() {
	l.mu.Lock()
	stamped := l.stamped
	ops := append(l.queue, stamped...)
	given := l.unstampLocked(stamped)
	l.given = append(l.given, given...)
	l.queue, l.stamped, l.closed = nil, nil, true
	l.mu.Unlock()
	l.p.release(given...)
	finish(ops, ErrClosed)
	wake(l.wakeTake)
	wake(l.wakeSend)
}

func finish(ops []*Op, err error) {
	for _, op := range ops {
		op.finish(Result{Err: err})
	}
}
