package mergedlog

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

// partials are the transactions of several parts of which some were seen, but not all.
type partials struct {
	byStamp map[int64]*partial
	order   stampHeap // those in byStamp, and some that were; the first is
}

type partial struct {
	seen    []bool // by index
	missing int
	evs     []Event
}

// add takes a part's events. It returns nil until all parts were seen, and then the events of all of them in the order of
// the transaction's operations; empty, but not nil, if there are none.
func (ps *partials) add(stamp int64, part manifest.Part, evs []Event) []Event {
	p := ps.byStamp[stamp]
	if p == nil {
		of := part.Of()
		p = &partial{seen: make([]bool, of), missing: of, evs: []Event{}}
		if ps.byStamp == nil {
			ps.byStamp = map[int64]*partial{}
		}
		ps.byStamp[stamp] = p
		heap.Push(&ps.order, stamp)
	}
	if part.Index < len(p.seen) && !p.seen[part.Index] {
		p.seen[part.Index] = true
		p.missing--
		p.evs = append(p.evs, evs...)
	}
	if p.missing > 0 {
		return nil
	}
	ps.remove(stamp)
	slices.SortStableFunc(p.evs, func(a, b Event) int { return byOrder(&a, &b) })
	fromBefore(len(p.evs), func(i int) *Event { return &p.evs[i] })
	return p.evs
}

// byOrder compares events of one stamp that were read from several members: as etcd has them, in the order of the
// operations, and those of a range delete by key.
func byOrder(a, b *Event) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), bytes.Compare(a.Kv.Key, b.Kv.Key))
}

// JoinParts makes of the events of one stamp, read from several members or several revisions of one, those that a log releases.
// It changes them.
func JoinParts(evs []*Event) {
	slices.SortStableFunc(evs, byOrder)
	fromBefore(len(evs), func(i int) *Event { return evs[i] })
}

// fromBefore gives deletes of keys that the same transaction has put or deleted before the pair from before the transaction as
// the previous one, as etcd does. On the member, which takes such a transaction in several revisions, it is the one that was put.
func fromBefore(n int, at func(i int) *Event) {
	revs, several := map[int]int64{}, false
	for i := 0; i < n && !several; i++ {
		e := at(i)
		rev, seen := revs[e.Member]
		revs[e.Member], several = e.MemberRev, seen && rev != e.MemberRev
	}
	if !several {
		return
	}
	before := make(map[string]*mvccpb.KeyValue, n)
	for i := range n {
		e := at(i)
		if prev, again := before[string(e.Kv.Key)]; !again {
			before[string(e.Kv.Key)] = e.PrevKv
		} else if e.Type == mvccpb.Event_DELETE {
			e.PrevKv = prev
		}
	}
}

func (ps *partials) remove(stamp int64) {
	delete(ps.byStamp, stamp)
	for len(ps.order) > 0 {
		if _, open := ps.byStamp[ps.order[0]]; open {
			return
		}
		heap.Pop(&ps.order)
	}
}

// lowest returns the lowest stamp of which parts are missing; forever if there is none.
func (ps *partials) lowest() int64 {
	if len(ps.order) == 0 {
		return forever
	}
	return ps.order[0]
}

// drop forgets the stamps up to c.
func (ps *partials) drop(c int64) {
	for stamp := ps.lowest(); stamp <= c; stamp = ps.lowest() {
		ps.remove(stamp)
	}
}

// stampHeap is a heap of stamps, lowest first.
type stampHeap []int64

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (h stampHeap) Len() int           { return len(h) }
func (h stampHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h stampHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *stampHeap) Push(x any) { *h = append(*h, x.(int64)) }

// Pop implements heap.Interface.
func (h *stampHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
