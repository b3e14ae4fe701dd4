package history

import (
	"math"
	"sort"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// none is above every stamp.
const none = math.MaxInt64

// index knows the stamps of a member's revisions in (after, upTo]. Its entries cover them without a gap. It is
// immutable once it is built.
type index struct {
	after, upTo int64
	base        int64 // highest stamp at or before after
	entries     []entry
}

// entry covers the revisions from its predecessor's to up to its own. With one stamp that grew, it begins where
// that was; entries that were merged to save memory have several. highest ascends strictly from the first entry
// above base on, lowest ascends.
type entry struct {
	to      int64
	grown   int64 // the last revision that raised the highest stamp
	highest int64 // stamp up to here, with all that comes before
	lowest  int64 // stamp of an event in here, and, once the index is sealed, later
}

// add appends a revision.
func (x *index) add(rev, highest int64, evs []mergedlog.Event) {
	lowest := int64(none)
	if len(evs) > 0 {
		lowest = evs[0].Rev
	}
	before, n := x.base, len(x.entries)
	if n > 0 {
		before = x.entries[n-1].highest
	}
	if n == 0 || highest > before {
		x.entries = append(x.entries, entry{rev, rev, max(before, highest), lowest})
		return
	}
	last := &x.entries[n-1]
	last.to = rev
	last.lowest = min(last.lowest, lowest)
}

// thin halves the number of entries. Answers become coarser, not wrong.
func (x *index) thin() {
	n := 0
	for i := 0; i < len(x.entries); i += 2 {
		e := x.entries[i]
		if i+1 < len(x.entries) {
			next := x.entries[i+1]
			e = entry{next.to, next.grown, next.highest, min(e.lowest, next.lowest)}
		}
		x.entries[n] = e
		n++
	}
	x.entries = x.entries[:n]
}

// seal ends the building of x, which covers what comes right before later.
func (x *index) seal(later *index) {
	lowest := int64(none)
	if len(later.entries) > 0 {
		lowest = later.entries[0].lowest
	}
	for i := len(x.entries) - 1; i >= 0; i-- {
		lowest = min(lowest, x.entries[i].lowest)
		x.entries[i].lowest = lowest
	}
	x.entries = append(x.entries, later.entries...)
	x.upTo = later.upTo
}

// lo bounds lo(r), for r >= base: it is in [from, to]. grew is false if no stamp is above r.
func (x *index) lo(r int64) (from, to int64, grew bool) {
	i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].highest > r })
	if i == len(x.entries) {
		return x.upTo, x.upTo, false
	}
	from = x.after
	if i > 0 {
		from = x.entries[i-1].to
	}
	return from, x.entries[i].grown - 1, true
}

// hi returns hi(r), or a later revision, for r >= base.
func (x *index) hi(r int64) int64 {
	i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].lowest > r })
	if i == 0 {
		return x.after
	}
	return x.entries[i-1].to
}
