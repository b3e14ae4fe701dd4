package snapshot

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// change is what a tail does to one key.
type change struct {
	first, last *mergedlog.Event // of this key, in member order
}

func (c change) key() []byte   { return c.last.Kv.Key }
func (c change) existed() bool { return c.first.PrevKv != nil } // in the base
func (c change) exists() bool  { return c.last.Type == mvccpb.Event_PUT }

// fold reduces a tail to one change per key, in key order.
func fold(tail []*mergedlog.Event) []change {
	if len(tail) == 0 {
		return nil
	}
	changes := make([]change, len(tail))
	for i, e := range tail {
		changes[i] = change{first: e, last: e}
	}
	// Stable: the events of one key stay in member order.
	slices.SortStableFunc(changes, func(a, b change) int { return bytes.Compare(a.key(), b.key()) })
	n := 0
	for _, c := range changes[1:] {
		if bytes.Equal(changes[n].key(), c.key()) {
			changes[n].last = c.last
			continue
		}
		n++
		changes[n] = c
	}
	return changes[:n+1]
}

// removed is the number of base keys that a tail removes.
func removed(tail []*mergedlog.Event) int64 {
	if !slices.ContainsFunc(tail, func(e *mergedlog.Event) bool { return e.Type == mvccpb.Event_DELETE }) {
		return 0
	}
	return removals(fold(tail))
}

// removals is the number of keys that the changes remove from the base.
func removals(changes []change) int64 {
	var n int64
	for _, c := range changes {
		if c.existed() && !c.exists() {
			n++
		}
	}
	return n
}

// growth is the number of keys that the changes add to the base, less the number of those they remove.
func growth(changes []change) int64 {
	var n int64
	for _, c := range changes {
		if c.exists() {
			n++
		}
		if c.existed() {
			n--
		}
	}
	return n
}

// count is the number of keys that the parts hold in the range.
func count(parts []Part) int64 {
	var n int64
	for i := range parts {
		n += parts[i].Count + growth(fold(parts[i].Tail))
	}
	return n
}
