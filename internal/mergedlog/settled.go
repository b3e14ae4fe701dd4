package mergedlog

import (
	"context"
	"maps"
)

// settling finds out up to where one member is closed, whatever the others do: every stamp up to revision that lands on the
// member at all was appended.
//
// A fence F does that for all stamps but those of transactions across members, whose parts no fence refuses. But these hold
// locks on the member from before they take their stamps, and a fence is raised to stamps that were taken. So once all the locks are
// released that were held where the fence was seen, no part at or below F is still to come. Later locks mean later stamps.
type settling struct {
	revision int64 // never decreases
	waiters  waiters

	next int64 // the fence that revision goes to when held is released; 0: none
	held locks
}

// noteSettledLocked follows the member's fence and locks.
func (l *Log) noteSettledLocked(m *member) {
	s := &m.settling
	for s.revision < m.Fence {
		if s.next == 0 {
			s.next = m.Fence
			s.held = maps.Clone(m.locks)
		}
		for slot, h := range s.held {
			if now, held := m.locks[slot]; !held || now.ID != h.ID {
				delete(s.held, slot)
			}
		}
		if len(s.held) > 0 {
			return
		}
		s.revision, s.next = s.next, 0
		s.waiters.wake(s.revision)
	}
}

// WaitSettled waits until nothing at or below revision r can land on the member any more: r is closed, or closed for this member
// alone. It fails with the context's error or the log's.
func (l *Log) WaitSettled(ctx context.Context, member int, r int64) error {
	m := l.members[member]
	return l.wait(ctx, &m.settling.waiters, r, func() int64 { return l.settledLocked(m) })
}

func (l *Log) settledLocked(m *member) int64 { return max(l.closed.Load(), m.settling.revision) }

// SettledSnapshot is Snapshot for a revision that need not be closed, but is settled on each of the members (else ErrNotClosed).
func (l *Log) SettledSnapshot(r int64, members []int, key, end []byte) ([]MemberSnapshot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, id := range members {
		if r > l.settledLocked(l.members[id]) {
			return nil, ErrNotClosed
		}
	}
	return l.snapshotLocked(r, members, key, end)
}
