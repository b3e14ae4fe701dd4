// Package latch orders the transactions across members of one process, first come first served, so that they do not meet each
// other's locks on the members: waiting here costs no request, and nobody is passed.
//
// Latches are taken in the order of members, and on a member in the order of slots, so that nobody waits in a circle.
package latch

import (
	"context"
	"math"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Claim is what somebody wants of a member: some slots, ascending; or, without slots, all of it.
type Claim struct {
	Member int
	Slots  []int
}

// Set has the latches of one process. It is safe for concurrent use.
type Set struct {
	members []*semaphore.Weighted // a slot's holder has 1, the holder of all has everything

	mu    sync.Mutex
	slots map[slot]*slotLatch
}

type slot struct{ member, slot int }

// slotLatch is the queue at one slot.
type slotLatch struct {
	sem  *semaphore.Weighted
	refs int // holders and waiters; guarded by mu
}

const everything = math.MaxInt64

// New makes the latches for so many members.
func New(members int) *Set {
	s := &Set{slots: map[slot]*slotLatch{}}
	for range members {
		s.members = append(s.members, semaphore.NewWeighted(everything))
	}
	return s
}

// Held is what somebody has taken. It is released claim by claim, or all at once. Releasing what was released does nothing.
// It is safe for concurrent use. A nil Held has nothing.
type Held struct{ releases []func() } // by claim

// Release releases all that is left.
func (h *Held) Release() {
	if h == nil {
		return
	}
	for i := range h.releases {
		h.ReleaseClaim(i)
	}
}

// ReleaseClaim releases one of the claims that were taken, by its index.
func (h *Held) ReleaseClaim(claim int) {
	if h != nil {
		h.releases[claim]()
	}
}

// Acquire waits for all claims, which are in the order of members. On error nothing is taken.
func (s *Set) Acquire(ctx context.Context, claims []Claim) (*Held, error) {
	held := &Held{}
	for _, c := range claims {
		release, err := s.acquire(ctx, c)
		held.releases = append(held.releases, sync.OnceFunc(release))
		if err != nil {
			held.Release()
			return nil, err
		}
	}
	return held, nil
}

// acquire takes one claim. What release gives back is, on error, what was taken before.
func (s *Set) acquire(ctx context.Context, c Claim) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	take := func(sem *semaphore.Weighted, n int64, done func()) error {
		if err := sem.Acquire(ctx, n); err != nil {
			done()
			return err
		}
		held = append(held, func() {
			sem.Release(n)
			done()
		})
		return nil
	}
	n := int64(1)
	if len(c.Slots) == 0 {
		n = everything
	}
	err = take(s.members[c.Member], n, func() {})
	for i := 0; err == nil && i < len(c.Slots); i++ {
		at := slot{c.Member, c.Slots[i]}
		err = take(s.join(at), 1, func() { s.leave(at) })
	}
	return release, err
}

// join makes the caller a holder or waiter of a slot's latch, until it leaves.
func (s *Set) join(at slot) *semaphore.Weighted {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.slots[at]
	if l == nil {
		l = &slotLatch{sem: semaphore.NewWeighted(1)}
		s.slots[at] = l
	}
	l.refs++
	return l.sem
}

func (s *Set) leave(at slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[at].refs--; s.slots[at].refs == 0 {
		delete(s.slots, at)
	}
}
