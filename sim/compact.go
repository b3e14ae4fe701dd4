package main

import "slices"

var (
	compactedIsOpenedAgain = newRule("mOverrun", "a watcher of user keys that was compacted goes on only if it is known to be complete up to there (A5)")
	lostIsUncovered        = newRule("mOverrunCover", "what was lost by compaction is covered anew, and its watchers read history first (A5)")
)

// startCompaction has a process compact at some revision that is closed there.
func (w *World) startCompaction(p *Process) {
	if p.up && p.ready && p.W > p.C0+1 {
		w.spawn(p, false, func(t *Task) { t.compact(max(p.C0+2, p.W-w.rng.Int63n(10))) })
	}
}

// compact compacts up to a closed revision, which stays readable: first what everybody looks at, then the members.
func (t *Task) compact(R int64) {
	w, p := t.w, t.p
	if _, ok := t.ask("compacted", func() any {
		w.compacted = max(w.compacted, R)
		return nil
	}); !ok {
		return
	}
	for _, s := range p.streams {
		lo := s.lo(R - 1)
		t.ask("compact", func() any {
			s.m.compacted = max(s.m.compacted, lo)
			return nil
		})
	}
}

// tooOld notes that something at a revision was refused because of compaction.
func (w *World) tooOld(what string, R int64) {
	if R >= w.compacted {
		w.fail("%s at %d is called compacted, at %d", what, R, w.compacted)
	}
}

// prove finds out from the manifests up to where a source has brought all.
func (src *Source) prove(s *Stream) {
	for src.complete < s.pos && !s.touches(src.complete+1, src.nat.keys) {
		src.complete++
	}
}

// touches tells whether a revision may have written some of the keys.
func (s *Stream) touches(rev int, keys Keys) bool {
	for _, mf := range s.m.log[rev-1].manifests {
		for _, e := range mf.entries {
			if slices.ContainsFunc(e.touches, func(t Touch) bool { return t.among&keys != 0 }) {
				return true
			}
		}
	}
	return false
}

// compactedAt goes on with a source whose watcher compaction has ended, if nothing is lost.
func (p *Process) compactedAt(s *Stream, src *Source, at int) {
	if src.dead || src.until <= src.complete+1 {
		return // it is not needed any more
	}
	src.prove(s)
	if src.complete < at-1 && p.w.holds(compactedIsOpenedAgain) {
		p.overrun(s, src)
		return
	}
	src.complete = max(src.complete, at-1)
	src.created = false
	src.nat = s.conn.watch(&Native{keys: src.nat.keys, start: src.complete + 1, take: src.nat.take})
}

// overrun gives up a source that compaction has passed: its watchers read what they miss from history, when its keys are covered anew.
func (p *Process) overrun(s *Stream, src *Source) {
	src.dead = true
	src.until = min(src.until, src.complete+1)
	keys := src.nat.keys
	s.redo = true
	if !p.w.holds(lostIsUncovered) {
		return
	}
	for k := range keys.each {
		p.covered[k] = 0
	}
	for _, wt := range p.watchers {
		if wt.joined && !wt.ended && wt.keys&keys != 0 {
			wt.joined = false
			p.w.spawn(p, false, func(t *Task) { t.join(wt) })
		}
	}
}

// lose ends a watcher with ErrCompacted.
func (p *Process) lose(wt *Watcher) {
	wt.ended = true
	p.w.tooOld("watcher", wt.next)
}
