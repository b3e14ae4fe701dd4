package watchhub

import (
	"slices"

	"go.etcd.io/etcd/pkg/v3/adt"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// fewRanges is up to where comparing with every range beats the interval tree, which allocates per look-up.
const fewRanges = 16

// index finds the watchers of a key. Watchers of the same range form a group, and an event is matched once per group
// however many watchers it has. Not safe for concurrent use.
type index struct {
	points  map[string]*group
	tree    adt.IntervalTree // of the groups in ranges
	ranges  []*group
	matched []*group // by the present call of match
	watches int
}

// group is the watchers of one range.
type group struct {
	key, end []byte // in etcd's convention
	place    int    // in index.ranges; -1: a single key
	watchers []*watcher
	events   []*mergedlog.Event // what match found for it
}

func newIndex() *index {
	return &index{points: map[string]*group{}, tree: adt.NewIntervalTree()}
}

func (x *index) len() int { return x.watches }

// add puts a watcher in, which is in no index.
func (x *index) add(w *watcher) {
	g := x.group(w)
	w.group, w.place = g, len(g.watchers)
	g.watchers = append(g.watchers, w)
	x.watches++
}

// group finds or makes the group of w's range.
func (x *index) group(w *watcher) *group {
	if len(w.end) == 0 {
		g := x.points[string(w.key)]
		if g == nil {
			g = &group{key: w.key, place: -1}
			x.points[string(w.key)] = g
		}
		return g
	}
	ivl := interval(w.key, w.end)
	if found := x.tree.Find(ivl); found != nil {
		return found.Val.(*group)
	}
	g := &group{key: w.key, end: w.end, place: len(x.ranges)}
	x.tree.Insert(ivl, g)
	x.ranges = append(x.ranges, g)
	return g
}

// remove takes a watcher out. The last watcher of its group takes its place, so a loop over a group from the end may
// remove what it visits.
func (x *index) remove(w *watcher) {
	g := w.group
	last := len(g.watchers) - 1
	g.watchers[w.place] = g.watchers[last]
	g.watchers[w.place].place = w.place
	g.watchers[last] = nil
	g.watchers = g.watchers[:last]
	w.group = nil
	x.watches--
	if last == 0 {
		x.drop(g)
	}
}

func (x *index) drop(g *group) {
	if g.place < 0 {
		delete(x.points, string(g.key))
		return
	}
	x.tree.Delete(interval(g.key, g.end))
	last := len(x.ranges) - 1
	x.ranges[g.place] = x.ranges[last]
	x.ranges[g.place].place = g.place
	x.ranges[last] = nil
	x.ranges = x.ranges[:last]
}

// match distributes events over the groups that watch their keys and returns the groups that got any. The caller takes
// each group's events with take, and uses the result before the next call.
func (x *index) match(evs []*mergedlog.Event) []*group {
	clear(x.matched)
	x.matched = x.matched[:0]
	for _, ev := range evs {
		key := ev.Kv.Key
		if g := x.points[string(key)]; g != nil {
			x.hit(g, ev)
		}
		if len(x.ranges) > fewRanges {
			x.tree.Visit(adt.NewBytesAffinePoint(key), func(n *adt.IntervalValue) bool {
				x.hit(n.Val.(*group), ev)
				return true
			})
			continue
		}
		for _, g := range x.ranges {
			if g.contains(key) {
				x.hit(g, ev)
			}
		}
	}
	return x.matched
}

// has reports whether somebody watches a key.
func (x *index) has(key []byte) bool {
	switch {
	case x.points[string(key)] != nil:
		return true
	case len(x.ranges) > fewRanges:
		return x.tree.Intersects(adt.NewBytesAffinePoint(key))
	}
	return slices.ContainsFunc(x.ranges, func(g *group) bool { return g.contains(key) })
}

func (x *index) hit(g *group, ev *mergedlog.Event) {
	if len(g.events) == 0 {
		x.matched = append(x.matched, g)
	}
	g.events = append(g.events, ev)
}

// take hands over what match found.
func (g *group) take() []*mergedlog.Event {
	evs := g.events
	g.events = nil
	return evs
}

// contains says whether a key is in the group's range.
func (g *group) contains(key []byte) bool {
	return keyrange.Of(g.key, g.end).Contains(key)
}

func interval(key, end []byte) adt.Interval {
	if keyrange.Of(key, end).Unbounded() {
		end = nil
	}
	return adt.NewBytesAffineInterval(key, end)
}

// all returns the watchers.
func (x *index) all() []*watcher {
	ws := make([]*watcher, 0, x.watches)
	for _, g := range x.points {
		ws = append(ws, g.watchers...)
	}
	for _, g := range x.ranges {
		ws = append(ws, g.watchers...)
	}
	return ws
}
