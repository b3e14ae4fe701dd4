package main

// Manifest is the record that a request leaves on a member beside what it writes: what became of the stamps that came with it. A
// request may have several, one for each operation that is decided inside; together they say it all.
type Manifest struct {
	name    int   // 0: the outer one
	W       int64 // the writer's, when it sent the request: nothing at or below it lands in a later revision
	entries []Entry
}

// Entry says what became of a stamp.
type Entry struct {
	T       int64
	landed  bool // or refused, or surrendered
	part    *Part
	touches []Touch // in the order of its operations
}

// Touch is what one operation of a transaction has written.
type Touch struct {
	op      int  // its place in the transaction
	named   bool // it wrote the one key that among has; else, perhaps, some of them
	among   Keys
	del     bool
	created bool // put: there was none before
}

// Clock is the record of that name, which is raised by every request and can be compared: the highest stamp that arrived, and the W
// of who brought it. W may go back.
type Clock struct{ max, W int64 }

var (
	manifestsAreAlwaysPut = newRule("mLower", "a manifest is put also where its highest stamp is below clock (A16)")
	clockOnlyRises        = newRule("mClockDown", "clock is put only when it rises: two flights land in either order (A16)")
	nestedHaveNames       = newRule("mOneName", "the nested operations of a request have records of different names (A1)")
	writersCarryW         = newRule("mCarryW", "a manifest carries the W of its writer, not what its writer has heard of (A8)")
	namesAreWhole         = newRule("mNames", "a manifest names all keys that its operation writes (A9)")
)

// note puts a manifest in a revision, and raises clock with it.
func (w *World) note(m *Member, rv *Revision, mf Manifest, raise bool) {
	var top int64
	for _, e := range mf.entries {
		top = max(top, e.T)
	}
	if top < m.clock.max && !w.holds(manifestsAreAlwaysPut) {
		return
	}
	rv.record = true
	if raise && top > 0 {
		m.raiseClock(top, mf.W, w.holds(clockOnlyRises))
	}
	if !w.holds(nestedHaveNames) {
		mf.name = min(mf.name, 1)
		for i := range rv.manifests {
			if rv.manifests[i].name == mf.name {
				rv.manifests[i] = mf
				return
			}
		}
	}
	rv.manifests = append(rv.manifests, mf)
}

// raiseClock notes that a stamp arrived: a rebuilt clock begins above it.
func (m *Member) raiseClock(T, W int64, onlyUp bool) {
	if c := (Clock{T, W}); !onlyUp || c.max > m.clock.max || c.max == m.clock.max && c.W > m.clock.W {
		m.clock = c
	}
}

// carries is the W that a process writes into its manifests.
func (p *Process) carries() int64 {
	if p.w.holds(writersCarryW) {
		return p.W
	}
	return max(p.W, p.streams[0].top)
}

// touchesOf are what certain events of a transaction have touched, by the transaction's operations.
func (w *World) touchesOf(evs []Event) (ts []Touch) {
	for _, e := range evs {
		if n := len(ts); n > 0 && ts[n-1].op == e.op && !ts[n-1].named {
			continue
		}
		t := Touch{op: e.op, named: !e.ranged, among: keysOf(e.key), del: e.del, created: !e.del && e.kv.create == e.T}
		if e.ranged {
			t.among = e.span
		}
		ts = append(ts, t)
	}
	if len(ts) > 1 && !w.holds(namesAreWhole) {
		ts = ts[:1]
	}
	return ts
}
