// Package turns lets the transactions across members of one process take turns, first come first served, so that they do
// not meet each other's locks on the members: waiting here costs no request, and nobody is passed.
//
// Turns are taken in the order of members, and on a member in the order of slots, so that nobody waits in a circle.
package turns

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

// Turns keeps the turns of one process. It is safe for concurrent use.
type Turns struct {
	members []*semaphore.Weighted // a slot's holder has 1, the holder of all has everything

	mu    sync.Mutex
	slots map[slot]*turn
}

type slot struct{ member, slot int }

// turn is the queue at one slot.
type turn struct {
	sem  *semaphore.Weighted
	refs int // holders and waiters; guarded by mu
}

const everything = math.MaxInt64

// New makes the turns for so many members.
func New(members int) *Turns {
	t := &Turns{slots: map[slot]*turn{}}
	for range members {
		t.members = append(t.members, semaphore.NewWeighted(everything))
	}
	return t
}

// Turn is a turn that was taken. It ends on each of its claims by itself, or on all at once. Ending what has ended does nothing.
// It is safe for concurrent use. A nil Turn has nothing.
type Turn struct{ ends []func() } // by claim

// End ends the turn on all that is left of it.
func (t *Turn) End() {
	if t == nil {
		return
	}
	for i := range t.ends {
		t.EndOn(i)
	}
}

// EndOn ends the turn on one of the claims that were taken, by its index.
func (t *Turn) EndOn(claim int) {
	if t != nil {
		t.ends[claim]()
	}
}

// Take waits for the caller's turn on all claims, which are in the order of members. On error nothing is taken.
func (t *Turns) Take(ctx context.Context, claims []Claim) (*Turn, error) {
	turn := &Turn{}
	for _, c := range claims {
		end, err := t.take(ctx, c)
		turn.ends = append(turn.ends, sync.OnceFunc(end))
		if err != nil {
			turn.End()
			return nil, err
		}
	}
	return turn, nil
}

// take takes one claim. What end gives back is, on error, what was taken before.
func (t *Turns) take(ctx context.Context, c Claim) (end func(), err error) {
	var held []func()
	end = func() {
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
	err = take(t.members[c.Member], n, func() {})
	for i := 0; err == nil && i < len(c.Slots); i++ {
		s := slot{c.Member, c.Slots[i]}
		err = take(t.queue(s), 1, func() { t.leave(s) })
	}
	return end, err
}

func (t *Turns) queue(s slot) *semaphore.Weighted {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.slots[s]
	if q == nil {
		q = &turn{sem: semaphore.NewWeighted(1)}
		t.slots[s] = q
	}
	q.refs++
	return q.sem
}

func (t *Turns) leave(s slot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slots[s].refs--; t.slots[s].refs == 0 {
		delete(t.slots, s)
	}
}
