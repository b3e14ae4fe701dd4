package mergedlog

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/metaetcd/metaetcd/internal/record"
)

// partials are the transactions across members of which some parts were seen, but not all, by stamp. They are few.
type partials map[int64]*partial

type partial struct {
	seen []bool // by index
	evs  []Event
}

// add takes a part's events. It returns nil until all parts were seen, and then the events of all of them in the order of
// the transaction's operations; empty, but not nil, if there are none.
func (ps partials) add(part record.Part, evs []Event) []Event {
	p := ps[part.Stamp]
	if p == nil {
		p = &partial{seen: make([]bool, part.Of), evs: []Event{}}
		ps[part.Stamp] = p
	}
	if part.Index < len(p.seen) && !p.seen[part.Index] {
		p.seen[part.Index] = true
		p.evs = append(p.evs, evs...)
	}
	if slices.Contains(p.seen, false) {
		return nil
	}
	delete(ps, part.Stamp)
	slices.SortStableFunc(p.evs, byOrder)
	return p.evs
}

// byOrder compares events of one stamp that were read from several members: as etcd has them, in the order of the
// operations, and those of a range delete by key.
func byOrder(a, b Event) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), bytes.Compare(a.Kv.Key, b.Kv.Key))
}

// SortParts brings the events of one stamp, read from several members, into the order in which a log releases them.
func SortParts(evs []*Event) {
	slices.SortStableFunc(evs, func(a, b *Event) int { return byOrder(*a, *b) })
}

// lowest returns the lowest stamp of which parts are missing; forever if there is none.
func (ps partials) lowest() int64 {
	low := int64(forever)
	for stamp := range ps {
		low = min(low, stamp)
	}
	return low
}

// drop forgets the stamps up to c.
func (ps partials) drop(c int64) {
	for stamp := range ps {
		if stamp <= c {
			delete(ps, stamp)
		}
	}
}
