package main

import "slices"

// Transactions across members as the library builds them: an id without a stamp, the primary locked first, decide together
// with the primary's part, no abort records. This file has what a member does about locks.

// inf is the clock of a slot that is locked.
const inf = int64(1) << 61

// Lock is a lock as a member's stream shows it.
type Lock struct {
	id   int64
	prim int
}

// Share is what a transaction takes of one member.
type Share struct {
	member int
	slots  []int
	whole  bool
}

// LockReply is the answer to what concerns locks.
type LockReply struct {
	st     status
	keys   State
	clocks []int64 // of the slots, before
	slotsL bool    // refused: slots are locked, the member is not
	pos    int
}

// slotsLocked tells whether any slot is locked.
func (m *Member) slotsLocked() bool {
	return slices.ContainsFunc(m.lock[:], func(l int64) bool { return l != 0 })
}

func (m *Member) locks() (ls []Lock) {
	if m.whole != 0 {
		ls = append(ls, Lock{m.whole, m.wholePrim})
	}
	for s, l := range m.lock {
		if l != 0 && !slices.Contains(ls, Lock{l, m.lockPrim[s]}) {
			ls = append(ls, Lock{l, m.lockPrim[s]})
		}
	}
	return ls
}

// holdsLocks tells whether a transaction has all the locks of its share.
func (m *Member) holdsLocks(id int64, sh Share) bool {
	if sh.whole {
		return m.whole == id
	}
	return !slices.ContainsFunc(sh.slots, func(s int) bool { return m.lock[s] != id })
}

// locksLeft tells whether there are locks that a resolver has to see to. A decision of which all parts are in may stay: the next
// start removes it.
func (w *World) locksLeft() bool {
	return slices.ContainsFunc(w.members, func(m *Member) bool { return len(m.locks()) > 0 })
}

// prepare locks a share, and reads the member.
func (w *World) prepare(m *Member, epoch, id int64, prim int, sh Share) any {
	if m.epoch != epoch {
		return LockReply{st: wrongEpoch}
	}
	if m.whole != 0 || sh.whole && m.slotsLocked() {
		return LockReply{st: refused, slotsL: m.whole == 0, pos: len(m.log)}
	}
	r := LockReply{keys: m.keys}
	for _, s := range sh.slots {
		if m.lock[s] != 0 {
			return LockReply{st: refused, pos: len(m.log)}
		}
	}
	if sh.whole {
		m.whole, m.wholePrim = id, prim
	}
	for _, s := range sh.slots {
		r.clocks = append(r.clocks, m.slots[s])
		m.lock[s], m.lockPrim[s], m.slots[s] = id, prim, inf
	}
	m.commit(m.recorded())
	return r
}

// claim locks a member of which slots are locked.
func (w *World) claim(m *Member, epoch, id int64, prim int) any {
	if m.epoch != epoch {
		return LockReply{st: wrongEpoch}
	}
	if m.whole != 0 {
		return LockReply{st: refused}
	}
	m.whole, m.wholePrim = id, prim
	m.commit(m.recorded())
	return LockReply{}
}

var claimsWaitForSlots = newRule("xClaimRead", "a claimed member is read when its slots are free")

// readClaimed reads a claimed member, once its slots are free.
func (w *World) readClaimed(m *Member, epoch, id int64) any {
	switch {
	case m.epoch != epoch:
		return LockReply{st: wrongEpoch}
	case m.whole != id:
		return LockReply{st: locksLost}
	case m.slotsLocked() && w.holds(claimsWaitForSlots):
		return LockReply{st: refused}
	}
	return LockReply{keys: m.keys}
}

var unlockRestoresClocks = newRule("xNoRestore", "the writer gives slots back with their old clocks")

// unlock is the writer's own: it gives back what was found.
func (w *World) unlock(m *Member, id int64, sh Share, clocks []int64) any {
	if !m.holdsLocks(id, sh) {
		return LockReply{}
	}
	if sh.whole {
		m.whole = 0
	}
	for i, s := range sh.slots {
		c := clocks[i]
		if !w.holds(unlockRestoresClocks) {
			c = 0
		}
		m.lock[s], m.slots[s] = 0, c
	}
	m.commit(m.recorded())
	return LockReply{}
}

var (
	epochGuardsAborts = newRule("xAbortEpoch", "an abort is guarded by the epoch of its stamp")
	abortsLookAgain   = newRule("xNoDecGuard", "an abort demands that there is no decision (never caught: decide frees the primary's locks)")
	abortsRaiseClock  = newRule("xAbortClk", "an abort raises clock")
)

// abort is anybody's: slots get a stamp of the taker's, which is closed by a manifest.
func (w *World) abort(m *Member, id int64, whole bool, slots []int, epoch, stamp, W int64) any {
	switch {
	case !m.holdsLocks(id, Share{slots: slots, whole: whole}),
		m.epoch != epoch && w.holds(epochGuardsAborts),
		m.decisions[id] != nil && w.holds(abortsLookAgain):
		return LockReply{st: refused}
	}
	rv := m.recorded()
	if whole {
		m.whole = 0
	} else {
		for _, s := range slots {
			m.lock[s], m.slots[s] = 0, stamp
		}
		w.note(m, &rv, Manifest{W: W, entries: []Entry{{T: stamp}}}, w.holds(abortsRaiseClock))
	}
	m.commit(rv)
	return LockReply{}
}
