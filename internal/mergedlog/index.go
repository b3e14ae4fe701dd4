package mergedlog

import (
	"slices"
	"sort"
)

// index remembers, for one member, at which of its revisions the highest stamp grew: enough to find the base of
// any snapshot since the stream began. Beyond bound entries the older half loses every second one, which makes
// the answers for old revisions coarser, never wrong.
type index struct {
	bound   int
	base    int64 // highest stamp before the first entry
	entries []indexEntry
}

// indexEntry says that the highest stamp grew to highest at member revision rev, and that W was closed when rev
// arrived. All three ascend from entry to entry, the first two strictly. An entry that stands for its thinned
// out successors has their highest stamp with its own rev and W.
type indexEntry struct{ rev, highest, closed int64 }

func (x *index) add(rev, highest, closed int64) {
	if len(x.entries) >= x.bound {
		x.thin()
	}
	x.entries = append(x.entries, indexEntry{rev, highest, closed})
}

// thin merges the older half of the entries pairwise. The earlier revision stays, because a base may be too old,
// but not too new; so does the earlier W, because a tail may be searched for too far, but not too short.
func (x *index) thin() {
	half := len(x.entries) / 4 * 2
	for i := 0; i < half; i += 2 {
		x.entries[i/2] = indexEntry{x.entries[i].rev, x.entries[i+1].highest, x.entries[i].closed}
	}
	x.entries = slices.Delete(x.entries, half/2, half)
}

// bounds returns lo, a member revision before any stamp above r, and hi, the last that may hold a stamp <= r,
// given that the stream stands at position. ok is false if r lies before the index.
func (x *index) bounds(r, position int64) (lo, hi int64, ok bool) {
	if r < x.base {
		return 0, 0, false
	}
	lo, hi = position, position
	if i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].highest > r }); i < len(x.entries) {
		lo = x.entries[i].rev - 1
	}
	if i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].closed >= r }); i < len(x.entries) {
		hi = x.entries[i].rev - 1
	}
	return lo, max(lo, hi), true
}

// forget drops what no revision from r on needs.
func (x *index) forget(r int64) {
	n := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].highest > r })
	if n > 0 {
		x.base = x.entries[n-1].highest
		x.entries = slices.Delete(x.entries, 0, n)
	}
}
