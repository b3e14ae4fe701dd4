package latch

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// taker waits for its claims in a goroutine of its own.
type taker struct {
	held   *Held
	err    error
	done   bool
	cancel context.CancelFunc
}

// take asks for claims, in a bubble of synctest.
func take(s *Set, claims ...Claim) *taker {
	ctx, cancel := context.WithCancel(context.Background())
	k := &taker{cancel: cancel}
	go func() {
		k.held, k.err = s.Acquire(ctx, claims)
		k.done = true
	}()
	synctest.Wait()
	return k
}

func (k *taker) release() {
	k.held.Release()
	synctest.Wait()
}

func claim(member int, slots ...int) Claim { return Claim{Member: member, Slots: slots} }

// idle says that nothing is left behind.
func (s *Set) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		if !m.TryAcquire(everything) {
			return false
		}
		m.Release(everything)
	}
	return len(s.slots) == 0
}

func TestLatchesOfSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := New(2)
		a := take(set, claim(0, 1, 3), claim(1, 2))
		require.True(t, a.done)
		apart := take(set, claim(0, 2), claim(1, 1, 3))
		require.True(t, apart.done, "other slots")
		first, second := take(set, claim(1, 2)), take(set, claim(0, 7), claim(1, 2))
		require.False(t, first.done || second.done)
		a.release()
		require.True(t, first.done)
		require.False(t, second.done, "first come, first served")
		require.True(t, take(set, claim(0, 1, 3)).done)
		first.release()
		require.True(t, second.done)
	})
}

func TestLatchesOfWholeMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := New(2)
		slot := take(set, claim(0, 1))
		whole := take(set, claim(0))
		require.False(t, whole.done, "a slot is taken")
		later := take(set, claim(0, 2))
		require.False(t, later.done, "nobody passes who waits for all of the member")
		other := take(set, claim(1))
		require.True(t, other.done)
		slot.release()
		require.True(t, whole.done)
		require.False(t, later.done)
		again := take(set, claim(0))
		whole.release()
		require.True(t, later.done)
		require.False(t, again.done)
		later.release()
		require.True(t, again.done)
		again.release()
		other.release()
		require.True(t, set.idle())
	})
}

// One member may be released before the others.
func TestClaimsAreReleasedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := New(2)
		a := take(set, claim(0, 1), claim(1))
		first, second := take(set, claim(0, 1)), take(set, claim(1, 2))
		a.held.ReleaseClaim(0)
		synctest.Wait()
		require.True(t, first.done)
		require.False(t, second.done)
		next := take(set, claim(0, 1))
		a.release()
		require.True(t, second.done)
		require.False(t, next.done, "nothing is given back twice")
		for _, k := range []*taker{first, second, next} {
			k.release()
		}
		require.True(t, set.idle())
	})
}

// Whoever gives up gives back what it had, and leaves the queue.
func TestAcquireEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := New(3)
		holder := take(set, claim(1, 5))
		for _, claims := range [][]Claim{{claim(0, 1), claim(1, 4, 5), claim(2)}, {claim(0), claim(1)}} {
			waiter := take(set, claims...)
			require.False(t, waiter.done)
			behind := take(set, claim(0, 1))
			require.False(t, behind.done)
			waiter.cancel()
			synctest.Wait()
			require.ErrorIs(t, waiter.err, context.Canceled)
			require.True(t, behind.done, "what it held is free")
			behind.release()
			free := take(set, claim(0), claim(1, 4), claim(2))
			require.True(t, free.done)
			free.release()
		}
		holder.release()
		require.True(t, set.idle())
	})
}

func TestAcquireFailsWhenItsContextHasEnded(t *testing.T) {
	set := New(1)
	held, err := set.Acquire(t.Context(), []Claim{claim(0, 1)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = set.Acquire(ctx, []Claim{claim(0, 1)})
	require.ErrorIs(t, err, context.Canceled)
	held.Release()
	require.True(t, set.idle())
}

const forever = 1 << 30

// Claims of any shape neither meet nor wait in a circle (the bubble would deadlock), and leave nothing.
func TestNobodyMeetsAndNobodyWaitsForEver(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		members := rapid.IntRange(1, 3).Draw(r, "members")
		type person struct {
			claims    []Claim
			at, holds time.Duration // in milliseconds, as patience
			patience  time.Duration
		}
		people := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) person {
			p := person{
				at: time.Duration(rapid.IntRange(0, 20).Draw(r, "at")), holds: time.Duration(rapid.IntRange(0, 20).Draw(r, "holds")),
				patience: time.Duration(rapid.SampledFrom([]int{1, 10, forever, forever}).Draw(r, "patience")),
			}
			for m := range members {
				switch rapid.IntRange(0, 3).Draw(r, "kind") {
				case 0:
					p.claims = append(p.claims, claim(m))
				case 1, 2:
					slots := rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 1, 3, rapid.ID).Draw(r, "slots")
					slices.Sort(slots)
					p.claims = append(p.claims, claim(m, slots...))
				}
			}
			return p
		}), 1, 12).Draw(r, "people")
		synctest.Test(t, func(t *testing.T) {
			set := New(members)
			var mu sync.Mutex
			inside := map[int][]Claim{}
			var all sync.WaitGroup
			for i, p := range people {
				all.Go(func() {
					time.Sleep(p.at * time.Millisecond)
					ctx := t.Context()
					if p.patience < forever { // who waits for ever must not have a timer: the bubble would wait for it
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, p.patience*time.Millisecond)
						defer cancel()
					}
					held, err := set.Acquire(ctx, p.claims)
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("failed without reason: %v", err)
						}
						return
					}
					mu.Lock()
					for _, o := range inside {
						if meet(p.claims, o) {
							t.Errorf("%v and %v meet", p.claims, o)
						}
					}
					inside[i] = p.claims
					mu.Unlock()
					time.Sleep(p.holds * time.Millisecond)
					mu.Lock()
					delete(inside, i)
					mu.Unlock()
					held.Release()
				})
			}
			all.Wait()
			if !set.idle() {
				t.Error("something is left")
			}
		})
		if t.Failed() {
			r.FailNow()
		}
	})
}

func meet(a, b []Claim) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Member != y.Member {
				continue
			}
			if len(x.Slots) == 0 || len(y.Slots) == 0 || slices.ContainsFunc(x.Slots, func(s int) bool { return slices.Contains(y.Slots, s) }) {
				return true
			}
		}
	}
	return false
}
