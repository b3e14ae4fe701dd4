package commit

import (
	"slices"
	"sync"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

const (
	maxFlights = 2
	// maxSurrender bounds the surrendered stamps of a flight: one record of four kilobytes.
	maxSurrender = 512
	// carefulFlights is how many flights land their operations one by one after a guard refused a whole flight.
	carefulFlights = 64
	// maxBatch bounds a flight whatever the member allows. Its stamps come from one add.
	maxBatch = 1024
	// pruneAt is the queue length from which enqueue looks for operations whose callers have gone.
	pruneAt = 1024
)

// lane carries the operations of this process to one member: they wait in queue, get their stamps in stamped, and leave in flights.
//
// Every operation is in one place: in queue, in stamped, in parked, with stampLoop or sendLoop, or in a flight. The fields below mu are
// guarded by it; stampLoop and sendLoop are one goroutine each, and are told of changes by the two wake channels.
type lane struct {
	p      *Pipeline
	index  int
	member Member

	wakeStamp, wakeSend chan struct{}

	mu          sync.Mutex
	closed      bool    // no more operations, no more stamps
	stamping    bool    // stampLoop runs
	done        bool    // sendLoop has ended: nothing is carried any more
	queue       []*Op   // no stamp yet
	nextPrune   int     // the queue length at which enqueue prunes next
	stamped     []*Op   // in stamp order
	parked      []*Op   // what they lack takes long to read; see lookup
	surrendered []Stamp // surrendered stamps to carry
	busyKeys    map[string]struct{}
	busySlots   map[int]struct{}
	// slotClocks are the highest stamps that operations of this process set the slots' clocks to, or wanted to.
	slotClocks map[int]int64
	flights    int // in the air, or being built
	laden      int // those that carry more than marks of surrendered stamps
	inAir      []*flight
	alone      bool // an exclusive operation is stamped or in flight
	stalled    int  // flights that are overdue or whose outcome is unknown
	careful    int  // flights to come whose operations land one by one
	taking     bool // stampLoop takes stamps
	unseen     bool // sendLoop has not looked at what was stamped last
	crowd      int  // operations that were on the lane when the last flight landed
}

func newLane(p *Pipeline, index int, m Member) *lane {
	return &lane{
		p: p, index: index, member: m, stamping: true, nextPrune: pruneAt,
		wakeStamp: make(chan struct{}, 1), wakeSend: make(chan struct{}, 1),
		busyKeys: map[string]struct{}{}, busySlots: map[int]struct{}{}, slotClocks: map[int]int64{},
	}
}

func (l *lane) enqueue(op *Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.p.ended()
	}
	l.queue = append(l.queue, op)
	if len(l.queue) >= l.nextPrune { // the member may be away for long
		l.pruneLocked()
		l.nextPrune = max(2*len(l.queue), pruneAt)
	}
	lifetime.Wake(l.wakeStamp)
	return nil
}

// wake tells both loops that something has changed.
func (l *lane) wake() {
	lifetime.Wake(l.wakeStamp)
	lifetime.Wake(l.wakeSend)
}

// pruneLocked ends the operations in the queue whose callers have gone: they need no stamp.
func (l *lane) pruneLocked() {
	l.queue = slices.DeleteFunc(l.queue, func(op *Op) bool {
		err := op.ctx.Err()
		if err != nil {
			op.finish(Result{Err: err})
		}
		return err != nil
	})
}

// unstampLocked takes away the stamps of operations that will not be sent with them. The caller surrenders what it returns.
func (l *lane) unstampLocked(ops []*Op) []Stamp {
	var given []Stamp
	for _, op := range ops {
		given = append(given, Stamp{op.stamp, op.epoch})
		l.alone = l.alone && !op.exclusive()
	}
	return given
}

// requeueLocked puts operations back at the head of the queue, to get new stamps, or ends them if the lane is closed. The caller
// surrenders the old stamps, which it returns.
func (l *lane) requeueLocked(ops []*Op) []Stamp {
	given := l.unstampLocked(ops)
	if l.closed {
		finish(ops, l.p.ended())
	} else {
		l.queue = slices.Insert(l.queue, 0, ops...)
	}
	return given
}

// carry accepts surrendered stamps, which a flight of the lane will mark. False: the lane does not work.
func (l *lane) carry(stamps []Stamp) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.worksLocked() {
		return false
	}
	l.surrendered = append(l.surrendered, stamps...)
	lifetime.Wake(l.wakeSend)
	return true
}

// works reports whether the lane would carry surrendered stamps.
func (l *lane) works() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worksLocked()
}

func (l *lane) worksLocked() bool { return l.stalled == 0 && !l.done && !l.p.stopped() }

// overdue reports whether a flight is out for long or its outcome is unknown.
func (l *lane) overdue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled > 0
}

// stallLocked gives up the stamps that wait to be sent while the member does not answer: they would hold up every reader
// of the meta cluster. Their operations stay and get new ones. The caller surrenders the stamps that it returns.
func (l *lane) stallLocked() []Stamp {
	l.stalled++
	given := append(l.surrendered, l.requeueLocked(l.stamped)...)
	l.stamped, l.surrendered = nil, nil
	return given
}

// close ends the operations that wait. A last flight marks their stamps, if anything may still be sent.
func (l *lane) close() {
	l.mu.Lock()
	stamped := l.stamped
	ops := slices.Concat(l.queue, stamped, l.parked)
	given := l.unstampLocked(stamped)
	l.surrendered = append(l.surrendered, given...)
	if l.p.stopped() {
		l.surrendered = nil
	}
	l.queue, l.stamped, l.parked, l.closed = nil, nil, nil, true
	l.mu.Unlock()
	l.p.release(given...)
	finish(ops, l.p.ended())
	lifetime.Wake(l.wakeStamp)
	lifetime.Wake(l.wakeSend)
}

func finish(ops []*Op, err error) {
	for _, op := range ops {
		op.finish(Result{Err: err})
	}
}
