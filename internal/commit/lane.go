package commit

import (
	"slices"
	"sync"
	"time"
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
		return l.p.ended()
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
		finish(ops, l.p.ended())
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

func (l *lane) worksLocked() bool { return l.stalled == 0 && !l.done && !l.p.stopped() }

func (l *lane) overdue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled > 0
}

// stallLocked gives up the stamps that wait to be sent while the member does not answer: they would hold up every reader
// of the meta cluster. Their operations stay and get other ones. It returns the stamps, for the caller to surrender.
func (l *lane) stallLocked() []stamp {
	l.stalled++
	given := append(l.given, l.requeueLocked(l.stamped)...)
	l.stamped, l.given = nil, nil
	return given
}

// close ends what waits. Its stamps are marked by a last flight, if anything may be sent.
func (l *lane) close() {
	l.mu.Lock()
	stamped := l.stamped
	ops := append(l.queue, stamped...)
	given := l.unstampLocked(stamped)
	l.given = append(l.given, given...)
	if l.p.stopped() {
		l.given = nil
	}
	l.queue, l.stamped, l.closed = nil, nil, true
	l.mu.Unlock()
	l.p.release(given...)
	finish(ops, l.p.ended())
	wake(l.wakeTake)
	wake(l.wakeSend)
}

func finish(ops []*Op, err error) {
	for _, op := range ops {
		op.finish(Result{Err: err})
	}
}
