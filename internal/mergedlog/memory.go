package mergedlog

import (
	"slices"
	"sort"
)

// perEvent is what an event takes in memory beside the bytes of its keys and values.
const perEvent = 320

// memory holds the released events, in stamp order, as far back as max allows.
type memory struct {
	max    int64
	bytes  int64
	events queue[*Event]
	floor  int64 // every released event with a stamp >= floor is here
}

func (e *Event) size() int64 {
	n := perEvent + len(e.Kv.Key) + len(e.Kv.Value)
	if e.PrevKv != nil {
		n += len(e.PrevKv.Key) + len(e.PrevKv.Value)
	}
	return int64(n)
}

func (m *memory) release(evs []Event) {
	for i := range evs {
		m.events.push(&evs[i])
		m.bytes += evs[i].size()
	}
}

// evict drops the oldest stamps, each with all its events, until the rest fits. It says whether it did anything.
func (m *memory) evict() bool {
	was := m.floor
	for m.bytes > m.max {
		m.forget(m.events.all()[0].Rev + 1)
	}
	return m.floor != was
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
