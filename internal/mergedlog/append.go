package mergedlog

import (
	"fmt"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

// Append takes what the member's stream delivered next. It owns the revisions from then on and rewrites their
// user events into the user's view. An error is final: the log has failed with it.
func (l *Log) Append(member int, revs []MemberRevision) error {
	m := l.members[member]
	m.append.Lock()
	defer m.append.Unlock()
	for i := range revs {
		err := m.parser.parse(&revs[i])
		l.mu.Lock()
		if err == nil {
			err = l.err
		}
		if err == nil {
			err = l.integrateLocked(m)
		}
		if err != nil {
			l.failLocked(err)
			l.mu.Unlock()
			return err
		}
		l.mu.Unlock()
	}
	return nil
}

// integrateLocked takes the member revision that m's parser holds.
func (l *Log) integrateLocked(m *member) error {
	p := &m.parser
	if p.rev <= m.Rev {
		if p.empty {
			return nil
		}
		return fmt.Errorf("%w: revision %d after %d", ErrOutOfOrder, p.rev, m.Rev)
	}
	m.Rev = p.rev
	if p.highest > m.Clock {
		l.noteClockLocked(m, p.highest)
		m.index.add(p.rev, p.highest, l.closed.Load())
	}
	l.noteLocksLocked(m, p.locks)
	// The marks come first: they belong to the epoch that the revision found.
	if err := l.noteMarksLocked(m); err != nil {
		return err
	}
	if p.fenced {
		if p.epoch < m.Epoch || p.fence < m.Fence {
			return fmt.Errorf("%w: fence went from %d in epoch %d back to %d in epoch %d at revision %d",
				ErrClockBroken, m.Fence, m.Epoch, p.fence, p.epoch, p.rev)
		}
		l.noteFenceLocked(m, p.epoch, p.fence)
		if p.exclusive == p.fence {
			m.ordered = p.fence
		}
	}
	l.noteReachedLocked(m)
	l.noteSettledLocked(m)
	l.advanceLocked()
	l.boundLocked()
	return nil
}

// noteMarksLocked takes the marks of the parsed revision, each with the events of its stamp.
func (l *Log) noteMarksLocked(m *member) error {
	p := &m.parser
	l.cfg.Doubts.marked(m.id, m.log, p.rev, p.marks)
	evs := p.evs
	for _, mk := range p.marks {
		n := 0
		for n < len(evs) && evs[n].Rev == mk.stamp {
			n++
		}
		own := evs[:n:n]
		evs = evs[n:]
		if mk.kind == manifest.Fenced && !m.locks.whole() && mk.stamp > m.ordered {
			l.fenced.Add(1)
		}
		if w := l.closed.Load(); l.started && mk.stamp <= w {
			if n > 0 {
				return fmt.Errorf("%w: stamp %d of key %q landed at revision %d, closed up to %d",
					ErrClockBroken, mk.stamp, own[0].Kv.Key, p.rev, w)
			}
			continue // a late refusal
		}
		m.tail.add(own)
		if mk.kind == manifest.Parted {
			own = l.partials.add(mk.stamp, p.part.Part, own)
			if own == nil {
				continue // not whole yet
			}
		}
		l.window.push(mk.stamp, own)
	}
	return nil
}

func (l *Log) noteClockLocked(m *member, stamp int64) {
	m.Clock = max(m.Clock, stamp)
	if stamp > l.highest.Load() {
		l.highest.Store(stamp)
	}
}

// noteFenceLocked moves the member's fence and epoch, which never go back.
func (l *Log) noteFenceLocked(m *member, epoch, fence int64) {
	m.Epoch, m.Fence = epoch, fence
	if epoch > l.epoch.Load() {
		l.epoch.Store(epoch)
	}
	l.minFence = l.members[0].Fence
	for _, o := range l.members[1:] {
		l.minFence = min(l.minFence, o.Fence)
	}
}

// noteReachedLocked does what waited for the stream's position: raises count, waiters go on.
func (l *Log) noteReachedLocked(m *member) {
	rest := m.raises[:0]
	for _, r := range m.raises {
		switch {
		case r.rev > m.Rev:
			rest = append(rest, r)
		case r.epoch == m.Epoch && r.fence > m.Fence:
			l.noteFenceLocked(m, m.Epoch, r.fence)
		}
	}
	m.raises = rest
	l.cfg.Doubts.stands(m.id, m.log, m.MemberState)
	m.waiters.wake(m.Rev)
}

// advanceLocked moves W as far as marks and fences close stamps, and releases the events on the way. The cost is
// that of the known stamps passed, however far a fence jumps. No fence closes a transaction that is known to have parts.
func (l *Log) advanceLocked() {
	if !l.started || l.err != nil {
		return
	}
	was := l.closed.Load()
	if l.window.bytes > l.memory.max/manyShare {
		l.memory.waited = l.highest.Load()
	}
	w, forgotten := was, false
	partial := l.partials.lowest()
	fenced := min(l.minFence, partial-1)
	for {
		stamp, gone := l.window.lowest(), l.window.gone.lowest()
		if next := min(stamp, gone); next >= partial || next > max(w, fenced)+1 {
			break
		}
		if gone <= stamp {
			w = max(w, l.window.gone[0].to)
			l.window.gone = l.window.gone[1:]
			l.memory.forget(w + 1)
			forgotten = true
			continue
		}
		if evs := l.window.pop(); stamp >= l.memory.floor {
			l.memory.release(evs)
		}
		w = max(w, stamp)
	}
	w = max(w, fenced)
	if w == was {
		return
	}
	l.closed.Store(w)
	l.evictLocked(forgotten)
	l.waiters.wake(w)
	for _, m := range l.members {
		m.settling.waiters.wake(w)
	}
	l.broadcastLocked()
}

func (l *Log) failLocked(err error) {
	if l.err != nil || err == nil {
		return
	}
	l.err = err
	l.waiters.wake(forever)
	for _, m := range l.members {
		m.waiters.wake(forever)
		m.settling.waiters.wake(forever)
	}
	l.releasedLocked()
	l.broadcastLocked()
}
