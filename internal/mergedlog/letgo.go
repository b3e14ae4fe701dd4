package mergedlog

import (
	"cmp"
	"slices"
)

// run is stamps above W that were seen, every one in [from, to], and whose events were let go: there was no room for them. Whoever wants
// them reads the members' histories.
type run struct{ from, to int64 }

// runs are runs in ascending order, none of which touches another.
type runs []run

// add adds a stamp.
func (rs *runs) add(stamp int64) {
	all := *rs
	i, found := slices.BinarySearchFunc(all, stamp, func(r run, stamp int64) int {
		switch {
		case r.to < stamp-1:
			return -1
		case r.from > stamp+1:
			return 1
		}
		return 0
	})
	if !found {
		*rs = slices.Insert(all, i, run{stamp, stamp})
		return
	}
	// It is the first that touches the stamp; the next one may, too.
	r := &all[i]
	r.from, r.to = min(r.from, stamp), max(r.to, stamp)
	if i+1 < len(all) && all[i+1].from <= r.to+1 {
		r.to = all[i+1].to
		*rs = slices.Delete(all, i+1, i+2)
	}
}

// has reports whether a stamp was let go.
func (rs runs) has(stamp int64) bool {
	i, found := slices.BinarySearchFunc(rs, stamp, func(r run, stamp int64) int { return cmp.Compare(r.from, stamp) })
	return found || i > 0 && rs[i-1].to >= stamp
}

// lowest returns the lowest stamp; forever if there is none.
func (rs runs) lowest() int64 {
	if len(rs) == 0 {
		return forever
	}
	return rs[0].from
}

// stamps is how many there are.
func (rs runs) stamps() (n int) {
	for _, r := range rs {
		n += int(r.to - r.from + 1)
	}
	return n
}

// letGoShare is the share of the bound that is let go at once: it takes a look at all that waits.
const letGoShare = 8

// letGo lets the events of the lowest stamps go when those that wait take more than most bytes. It says whether it did.
func (w *window) letGo(most int64) bool {
	if w.bytes <= most {
		return false
	}
	for w.bytes > most-most/letGoShare {
		stamp := w.heap[0].stamp
		w.pop()
		w.gone.add(stamp)
	}
	return true
}

// boundLocked keeps what waits above W, and what is held for watchers beside it, within their bounds. Of the events that are let go, the
// stamps stay, and so does the index: W moves on as if nothing had happened, and members are read where they were.
func (l *Log) boundLocked() {
	if l.memory.bytes > l.memory.max {
		l.evictLocked(false)
	}
	if !l.window.letGo((mostTimes - 1) * l.memory.max) {
		return
	}
	for _, m := range l.members {
		m.tail.letGo(l.window.gone)
	}
}
