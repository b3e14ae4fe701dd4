package translate

import (
	"slices"

	"go.etcd.io/etcd/pkg/v3/adt"
)

// A transaction may have any number of operations that its members take, so nothing here looks at every operation for each
// of them. The usual transaction has one or two: for those, a scan is cheaper than a map or a tree.

// few is up to where a scan beats a map.
const few = 16

// finder finds things by name, in any number of them.
type finder[K comparable] struct {
	names []K
	index map[K]int // nil: few
}

// find returns the place of a name, and whether it is new; then it has been added.
func (f *finder[K]) find(name K) (place int, added bool) {
	if f.index == nil {
		if i := slices.Index(f.names, name); i >= 0 {
			return i, false
		}
	} else if i, ok := f.index[name]; ok {
		return i, false
	}
	f.names = append(f.names, name)
	switch {
	case f.index != nil:
		f.index[name] = len(f.names) - 1
	case len(f.names) > few:
		f.index = make(map[K]int, 2*len(f.names))
		for i, n := range f.names {
			f.index[n] = i
		}
	}
	return len(f.names) - 1, true
}

// cover is the union of ranges. The zero value is empty.
type cover struct {
	keys   map[string]struct{}
	ranges adt.IntervalTree
}

// add adds a range in etcd's convention.
func (c *cover) add(r Range) {
	if r.Single() {
		if c.keys == nil {
			c.keys = map[string]struct{}{}
		}
		c.keys[string(r.Key)] = struct{}{}
		return
	}
	ivl, empty := interval(r)
	if empty {
		return
	}
	if c.ranges == nil {
		c.ranges = adt.NewIntervalTree()
	}
	if c.ranges.Find(ivl) == nil {
		c.ranges.Insert(ivl, nil)
	}
}

// interval is a range in etcd's convention as trees take it.
func interval(r Range) (ivl adt.Interval, empty bool) {
	switch {
	case r.Single():
		return adt.NewBytesAffinePoint(r.Key), false
	case r.Unbounded():
		return adt.NewBytesAffineInterval(r.Key, nil), false
	case r.Empty():
		return ivl, true
	}
	return adt.NewBytesAffineInterval(r.Key, r.End), false
}

// has reports whether a key lies in some range.
func (c *cover) has(key []byte) bool {
	if _, ok := c.keys[string(key)]; ok {
		return true
	}
	return c.ranges != nil && c.ranges.Intersects(adt.NewBytesAffinePoint(key))
}

// distinct sorts ids and takes out those that are there twice.
func distinct(ids []int64) []int64 {
	slices.Sort(ids)
	return slices.Compact(ids)
}
