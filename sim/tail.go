package main

var (
	tailsAreRead       = newRule("mTail", "what landed behind the base with a lower stamp is laid over it (A9)")
	tailsStopAtR       = newRule("mTailR", "only what has a stamp up to R is laid over a base (A9)")
	recordsAreOfTheRev = newRule("mStaleRecord", "a manifest that is read at a revision counts only if it was put in it (A8)")
	tailsEndByW        = newRule("mHi", "a tail is read up to a revision whose W has reached R, not only to where the highest stamp has (A8)")
	ownTailsAreExact   = newRule("mOwnTail", "an own landing serves as a tail event only if its state before was known and pinned (A9)")
)

// lo counts the revisions before the first that has a stamp above R.
func (s *Stream) lo(R int64) int {
	for i := s.begin; i < s.pos; i++ {
		for _, mf := range s.m.log[i].manifests {
			for _, e := range mf.entries {
				if e.T > R {
					return i
				}
			}
		}
	}
	return s.pos
}

// hi is the last revision that has a stamp up to R which landed.
func (s *Stream) hi(R int64) int {
	for i := s.pos; i > s.begin; i-- {
		for _, mf := range s.m.log[i-1].manifests {
			for _, e := range mf.entries {
				if e.landed && e.T <= R {
					return i
				}
			}
		}
	}
	return s.begin
}

// clean tells whether a member's base at R has no tail.
func (s *Stream) clean(R int64) bool { return s.hi(R) <= s.lo(R) }

// snapshot is the state at a closed revision: a base and a tail by member. Not ok: it is compacted.
func (t *Task) snapshot(R int64) (st State, ok bool) {
	w, p := t.w, t.p
	if R > p.W {
		w.fail("snapshot above W")
	}
	for _, s := range p.streams {
		at, readable := t.memberAt(s, R)
		if !readable {
			return st, false
		}
		for k := range w.on(s.m.id, w.allKeys()).each {
			st[k] = at[k]
		}
	}
	return st, true
}

// memberAt is a member's state at a closed revision. What the process has followed is bounded by its own log; else, and now and
// then, the member's history is.
func (t *Task) memberAt(s *Stream, R int64) (State, bool) {
	w, p, m := t.w, t.p, s.m
	for {
		history := R < p.C0 || w.coin(0.2)
		lo, hi := s.lo(R), s.pos
		r, ok := t.ask("range", func() any {
			if history {
				lo, hi = w.bounds(m, R, hi)
			}
			if lo < m.compacted {
				return w.compacted
			}
			st := m.keysAt(lo)
			for n := lo + 1; n <= hi && w.holds(tailsAreRead); n++ {
				mfs := m.log[n-1].manifests
				if history {
					mfs = w.manifestsAt(m, n)
				}
				p.layOver(m, n, mfs, R, &st)
			}
			return st
		})
		if !ok {
			continue
		}
		if st, ok := r.(State); ok {
			return st, true
		}
		if R < r.(int64) {
			return State{}, false
		}
		t.wait(true, func() bool { return s.pos > hi }) // another process compacted, and this one is behind
	}
}

// keysAt are the keys as they were at a revision.
func (m *Member) keysAt(n int) State {
	if n == 0 {
		return State{}
	}
	return m.log[n-1].keys
}

// layOver puts what a revision has with stamps up to R over a state, by reading the keys that its manifests name. What the
// process has written itself it need not read. Where a range is deleted, nothing with a higher stamp has landed before: it is as it
// is there.
func (p *Process) layOver(m *Member, n int, mfs []Manifest, R int64, st *State) {
	w, at := p.w, m.keysAt(n)
	for _, mf := range mfs {
		for _, e := range mf.entries {
			if !e.landed || e.T > R && w.holds(tailsStopAtR) {
				continue
			}
			for _, t := range e.touches {
				for k := range w.on(m.id, t.among).each {
					st[k] = at[k]
					if kv, ok := p.own[arrival{m.id, n, k}]; ok {
						st[k] = kv
					}
				}
			}
		}
	}
}

// bounds are lo(R), and a revision behind which nothing up to R lands, by bisection over the record clock. The process has seen
// all up to R in the revisions up to end.
func (w *World) bounds(m *Member, R int64, end int) (lo, hi int) {
	switch c := m.compacted; {
	case c > 0 && m.log[c-1].clock.max > R:
		return -1, end
	case c > end:
		return c, c
	}
	lo = bisect(m.compacted, end+1, func(n int) bool { return n > 0 && m.log[n-1].clock.max > R }) - 1
	return lo, bisect(lo, end, func(n int) bool {
		c := m.log[max(n, 1)-1].clock
		return n > 0 && (c.W >= R || c.max >= R && !w.holds(tailsEndByW))
	})
}

// bisect finds a number in (a, b] for which above holds, though not for the one before it, if it holds for b, which is not asked.
func bisect(a, b int, above func(int) bool) int {
	for a+1 < b {
		if mid := (a + b) / 2; above(mid) {
			b = mid
		} else {
			a = mid
		}
	}
	return max(a, b)
}

// manifestsAt reads the manifests as they are at a revision, of which some may be older.
func (w *World) manifestsAt(m *Member, n int) (mfs []Manifest) {
	if w.holds(recordsAreOfTheRev) {
		return m.log[n-1].manifests
	}
	seen := map[int]bool{}
	for i := n; i > 0 && i > n-10; i-- {
		for _, mf := range m.log[i-1].manifests {
			if !seen[mf.name] {
				seen[mf.name] = true
				mfs = append(mfs, mf)
			}
		}
	}
	return mfs
}
