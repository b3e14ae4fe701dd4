package mergedlog

import (
	"context"
	"slices"

	"github.com/metaetcd/metaetcd/internal/record"
)

// Whole is the slot of a lock on a whole member.
const Whole = -1

// Lock says that a transaction across members holds a slot, or a whole member; or that nobody does any more.
type Lock struct {
	Member int
	Slot   int // or Whole
	Held   bool
	record.Holder
}

// locks are a member's locks by slot, as its stream shows them.
type locks map[int]record.Holder

func (ls locks) whole() bool {
	_, held := ls[Whole]
	return held
}

// hold reports whether one of the slots is locked, or the member is.
func (ls locks) hold(slots []int) bool {
	return ls.whole() || slices.ContainsFunc(slots, func(s int) bool {
		_, held := ls[s]
		return held
	})
}

func (l *Log) noteLocksLocked(m *member, changes []Lock) {
	released := false
	for _, c := range changes {
		n := len(m.locks)
		if c.Held {
			m.locks[c.Slot] = c.Holder
		} else {
			delete(m.locks, c.Slot)
		}
		released = released || len(m.locks) < n
		l.locked.Add(int64(len(m.locks) - n))
	}
	if released {
		l.releasedLocked()
	}
}

func (l *Log) releasedLocked() {
	if l.unlocked != nil {
		close(l.unlocked)
		l.unlocked = nil
	}
}

// Locked returns how many locks the streams show. It is cheap.
func (l *Log) Locked() int { return int(l.locked.Load()) }

// Locks returns the locks that the streams show.
func (l *Log) Locks() []Lock {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Lock
	for i, m := range l.members {
		for slot, h := range m.locks {
			out = append(out, Lock{Member: i, Slot: slot, Held: true, Holder: h})
		}
	}
	return out
}

// WaitUnlocked waits until the member's stream has reached the member's revision rev, and shows none of the slots locked, nor
// the member. It fails with the context's error or the log's.
func (l *Log) WaitUnlocked(ctx context.Context, member int, rev int64, slots ...int) error {
	return l.waitWhile(ctx, member, rev, func(ls locks) bool { return ls.hold(slots) })
}

// WaitAllUnlocked is WaitUnlocked for all slots of the member.
func (l *Log) WaitAllUnlocked(ctx context.Context, member int, rev int64) error {
	return l.waitWhile(ctx, member, rev, func(ls locks) bool { return len(ls) > 0 })
}

// WaitSlotsUnlocked is WaitUnlocked for all slots of a member that the caller itself has locked.
func (l *Log) WaitSlotsUnlocked(ctx context.Context, member int, rev int64) error {
	return l.waitWhile(ctx, member, rev, func(ls locks) bool { return len(ls) > 1 || len(ls) == 1 && !ls.whole() })
}

func (l *Log) waitWhile(ctx context.Context, member int, rev int64, held func(ls locks) bool) error {
	if err := l.WaitReached(ctx, member, rev); err != nil {
		return err
	}
	for {
		changed, err := l.whileHeld(l.members[member], held)
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whileHeld returns what to wait for while something is locked.
func (l *Log) whileHeld(m *member, held func(ls locks) bool) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || !held(m.locks) {
		return nil, l.err
	}
	if l.unlocked == nil {
		l.unlocked = make(chan struct{})
	}
	return l.unlocked, nil
}
