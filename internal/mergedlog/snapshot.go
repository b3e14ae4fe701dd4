package mergedlog

import (
	"sort"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// tail holds the events of one member in the member's order, for the tails of snapshots: those that memory holds,
// those above W, and a few between.
type tail struct {
	events queue[tailEvent]
	gone   int64 // highest member revision with an event that was dropped; 0: none
	hole   hole
}

// hole is where events above W were let go, from the middle of a tail: those at or below W stay in front of it.
type hole struct {
	from, to int64 // member revisions; 0: there is none
	lowest   int64 // stamp
}

type tailEvent struct {
	rev, stamp int64
	ev         *Event
}

func (t *tail) add(evs []Event) {
	for i := range evs {
		t.events.push(tailEvent{evs[i].MemberRev, evs[i].Rev, &evs[i]})
	}
}

// trim drops events from the front as long as old says so.
func (t *tail) trim(old func(tailEvent) bool) {
	for t.events.len() > 0 && old(t.events.all()[0]) {
		t.gone = max(t.gone, t.events.pop().rev)
	}
	if t.hole.to > 0 && (t.events.len() == 0 || t.events.all()[0].rev >= t.hole.from) {
		t.gone, t.hole = max(t.gone, t.hole.to), hole{} // it is at the front
	}
}

// letGo drops the events of stamps wherever they are.
func (t *tail) letGo(stamps runs) {
	all := t.events.all()
	kept := all[:0]
	for _, e := range all {
		if !stamps.has(e.stamp) {
			kept = append(kept, e)
			continue
		}
		h := &t.hole
		if h.to == 0 {
			*h = hole{e.rev, e.rev, e.stamp}
		}
		h.from, h.to, h.lowest = min(h.from, e.rev), max(h.to, e.rev), min(h.lowest, e.stamp)
	}
	clear(all[len(kept):])
	t.events.buf = t.events.buf[:t.events.head+len(kept)]
}

// lacks reports whether an event may be missing that is in (lo, hi] with a stamp <= r.
func (t *tail) lacks(lo, hi, r int64) bool {
	if lo >= hi {
		return false
	}
	return lo < t.gone || t.hole.to > lo && t.hole.from <= hi && t.hole.lowest <= r
}

// between returns the events in (lo, hi] with stamps <= r and keys in the range.
func (t *tail) between(lo, hi, r int64, keys keyrange.Range) (evs []*Event) {
	all := t.events.all()
	for i := sort.Search(len(all), func(i int) bool { return all[i].rev > lo }); i < len(all) && all[i].rev <= hi; i++ {
		if all[i].stamp <= r && keys.Contains(all[i].ev.Kv.Key) {
			evs = append(evs, all[i].ev)
		}
	}
	return evs
}

// MemberSnapshot is one member's part of a snapshot at some revision R: the member's state at its own revision Lo,
// overlaid by Tail.
type MemberSnapshot struct {
	Lo   int64
	Tail []*Event // stamps <= R, after Lo; by member revision, then by stamp
}

// Snapshot returns base and tail at revision r for each of the members, in their order, the tails restricted to a
// range of keys in etcd's convention. r has to be closed (else ErrNotClosed) and within what the log
// remembers (else ErrEvicted).
func (l *Log) Snapshot(r int64, members []int, key, end []byte) ([]MemberSnapshot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if r > l.closed.Load() {
		return nil, ErrNotClosed
	}
	return l.snapshotLocked(r, members, key, end)
}

func (l *Log) snapshotLocked(r int64, members []int, key, end []byte) ([]MemberSnapshot, error) {
	if !l.started || r < l.start {
		return nil, ErrEvicted
	}
	snaps := make([]MemberSnapshot, len(members))
	for i, id := range members {
		m := l.members[id]
		lo, hi, ok := m.index.bounds(r, m.Rev)
		if !ok || m.tail.lacks(lo, hi, r) {
			return nil, ErrEvicted
		}
		snaps[i] = MemberSnapshot{Lo: lo, Tail: m.tail.between(lo, hi, r, keyrange.Of(key, end))}
	}
	return snaps, nil
}

// Lo bounds the events that make the member's state at revision r out of its state at lo: they have stamps <= r
// and member revisions in (lo, hi]. It needs no events in memory. ok is false if r is not closed, below Start, or
// so far below a compaction that it was forgotten.
func (l *Log) Lo(member int, r int64) (lo, hi int64, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.boundsLocked(l.members[member], r)
}

func (l *Log) boundsLocked(m *member, r int64) (lo, hi int64, ok bool) {
	if !l.started || r < l.start || r > l.closed.Load() {
		return 0, 0, false
	}
	return m.index.bounds(r, m.Rev)
}

// SetCompacted says that the user compacted at r: the log forgets what only revisions below r-1 need. r-1 itself
// is kept, because a watch may begin at r.
func (l *Log) SetCompacted(r int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r = min(r, l.closed.Load()); r <= l.start {
		return
	}
	l.memory.forget(r)
	for _, m := range l.members {
		if lo, _, ok := l.boundsLocked(m, r-1); ok {
			m.tail.trim(func(e tailEvent) bool { return e.rev <= lo })
			m.index.forget(r - 1)
		}
	}
}

// trimTailsLocked drops from the tails what memory has evicted. An event that waits behind a younger stamp of its
// member stays until that one goes.
func (l *Log) trimTailsLocked() {
	for _, m := range l.members {
		m.tail.trim(func(e tailEvent) bool { return e.stamp < l.memory.floor })
	}
}
