package mergedlog

import (
	"slices"
	"sort"
	"sync/atomic"
)

// perEvent is what an event takes in memory beside the bytes of its keys and values.
const perEvent = 320

// memory holds the released events, in stamp order, as far back as max allows.
//
// What has waited above W for long is released at once, and may be much more than max. Watchers are about to be given it: so it stays until
// they have taken it, but never longer than everything in memory, what waits again included, is at or below most.
type memory struct {
	max, most int64
	bytes     int64
	events    queue[*Event]
	floor     int64 // every released event with a stamp >= floor is here

	waited int64        // up to here, events have waited above W with many others
	needed atomic.Int64 // nobody who is attached needs an event below; 0: nobody is
	over   atomic.Bool  // bytes is above max: something is held
}

const (
	// mostTimes is how often Config.MaxBytes goes into the memory of all events: once for those that are kept at any time, the rest for
	// what waits above W, or was released at once and is about to be given to watchers.
	mostTimes = 3
	// manyShare is the share of Config.MaxBytes above which what waits is more than the usual coming and going.
	manyShare = 8
)

func (e *Event) size() int64 {
	n := perEvent + len(e.Kv.Key) + len(e.Kv.Value)
	if e.PrevKv != nil {
		n += len(e.PrevKv.Key) + len(e.PrevKv.Value)
	}
	return int64(n)
}

func sizeOf(evs []Event) (n int64) {
	for i := range evs {
		n += evs[i].size()
	}
	return n
}

func (m *memory) release(evs []Event) {
	for i := range evs {
		m.events.push(&evs[i])
	}
	m.bytes += sizeOf(evs)
}

// evict drops the oldest stamps, each with all its events, until the rest fits, beside so many bytes that wait above W. It says whether
// it did anything.
func (m *memory) evict(waiting int64) bool {
	was := m.floor
	for m.bytes > m.max {
		oldest := m.events.all()[0].Rev
		if m.held(oldest) && m.bytes+waiting <= m.most {
			break
		}
		m.forget(oldest + 1)
	}
	m.over.Store(m.bytes > m.max)
	return m.floor != was
}

// held reports whether the events of a stamp have waited for long, and are still to be given to somebody.
func (m *memory) held(stamp int64) bool {
	needed := m.needed.Load()
	return needed > 0 && needed <= stamp && stamp <= m.waited
}

// Needs says that nobody who follows the log needs anything below rev any more. Nothing is kept for anybody before it was called, and
// it is only ever raised. It is cheap while nothing is held.
func (l *Log) Needs(rev int64) {
	needed := &l.memory.needed
	for {
		old := needed.Load()
		if rev <= old {
			return
		}
		if needed.CompareAndSwap(old, rev) {
			break
		}
	}
	if l.memory.over.Load() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.evictLocked(false)
	}
}

// ReplayTo returns up to where history is to be read for somebody who needs what is below Floor, and whose needs Needs has heard of: what
// comes after it is here, and stays until he has got it, within the bounds; or it is all that is closed.
func (l *Log) ReplayTo() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if m := &l.memory; m.held(m.floor) {
		return min(m.floor-1, l.closed.Load())
	}
	return l.closed.Load()
}

// evictLocked evicts what need not stay. Events may be forgotten already that the tails still have.
func (l *Log) evictLocked(forgotten bool) {
	if l.memory.evict(l.window.bytes) || forgotten {
		l.trimTailsLocked()
	}
}

// forget drops the events with stamps below r.
func (m *memory) forget(r int64) {
	for m.events.len() > 0 && m.events.all()[0].Rev < r {
		m.bytes -= m.events.pop().size()
	}
	m.floor = max(m.floor, r)
}

// Since returns released events with stamps >= from, in stamp order, all events of a stamp together, and where to
// go on: W+1 when there are no more. It returns at most maxEvents (0: any number), but never less than one
// stamp. Below Floor it fails with ErrEvicted; at the end of a failed log with the log's error.
func (l *Log) Since(from int64, maxEvents int) (evs []*Event, next int64, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	w := l.closed.Load()
	switch {
	case from > w:
		return nil, from, l.err
	case from < l.memory.floor:
		return nil, from, ErrEvicted
	}
	all := l.memory.events.all()
	all = all[sort.Search(len(all), func(i int) bool { return all[i].Rev >= from }):]
	if maxEvents <= 0 || maxEvents >= len(all) {
		return slices.Clone(all), w + 1, nil
	}
	n, cut := maxEvents, all[maxEvents].Rev
	for n > 0 && all[n-1].Rev == cut {
		n--
	}
	if n == 0 {
		n = sort.Search(len(all), func(i int) bool { return all[i].Rev > cut })
	}
	return slices.Clone(all[:n]), all[n-1].Rev + 1, nil
}

// Floor returns the revision from which on every released event is in memory; above W if there is none.
func (l *Log) Floor() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.memory.floor
}

// queue is a first-in, first-out sequence that can be searched.
type queue[T any] struct {
	buf  []T
	head int
}

func (q *queue[T]) len() int { return len(q.buf) - q.head }
func (q *queue[T]) all() []T { return q.buf[q.head:] }

func (q *queue[T]) push(v T) {
	if len(q.buf) == cap(q.buf) && q.head > len(q.buf)/2 {
		n := copy(q.buf, q.all())
		clear(q.buf[n:])
		q.buf, q.head = q.buf[:n], 0
	}
	q.buf = append(q.buf, v)
}

func (q *queue[T]) pop() (v T) {
	v, q.buf[q.head] = q.buf[q.head], v
	q.head++
	return v
}
