package fencer

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// world is some members, which number what happens to them, and the processes that follow it.
type world struct {
	mu        sync.Mutex
	members   []*cluster
	processes []*process
	rtt       time.Duration
	raises    int
	looks     int
}

// cluster is one member: its revisions are the effects in its log.
type cluster struct {
	log   []effect
	fence int64
	away  bool
}

// effect is a stamp that landed, or a fence.
type effect struct{ landed, killed, fence int64 }

// process is what one process sees, which is late by lag.
type process struct {
	w        *world
	f        *Fencer
	lag      time.Duration
	pos      []int // by member
	fences   []int64
	seen     map[int64]bool
	closed   int64
	highest  int64
	marks    uint64
	wanted   bool
	reaching *sync.Cond
}

func newWorld(t *testing.T, members, processes int) *world {
	w := &world{rtt: 2 * time.Millisecond}
	for range members {
		w.members = append(w.members, &cluster{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range processes {
		p := &process{w: w, lag: time.Millisecond, pos: make([]int, members), fences: make([]int64, members), seen: map[int64]bool{}, wanted: true}
		p.reaching = sync.NewCond(&w.mu)
		cfg := Config{
			Log: p, Epoch: func() int64 { return 1 }, Sync: func(context.Context) {}, Holds: func(int64) bool { return false },
			Wanted: func() bool { return p.wanted },
		}
		for m := range members {
			cfg.Members = append(cfg.Members, Member{
				Look:  func(ctx context.Context) (Fence, error) { return w.look(ctx, m) },
				Raise: func(ctx context.Context, _, rev int64) (Fence, error) { return w.raise(ctx, m, rev) },
				WaitReached: func(ctx context.Context, rev int64) error {
					return p.waitReached(ctx, m, int(rev))
				},
				Position: func() int64 {
					w.mu.Lock()
					defer w.mu.Unlock()
					return int64(p.pos[m])
				},
			})
		}
		p.f = New(cfg)
		r := rand.New(rand.NewPCG(1, uint64(i)))
		p.f.vote.rand = r.Float64
		w.processes = append(w.processes, p)
		wg.Go(func() { p.f.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

func (w *world) request(ctx context.Context, m int, do func(c *cluster) Fence) (Fence, error) {
	time.Sleep(w.rtt / 2)
	w.mu.Lock()
	away := w.members[m].away
	var f Fence
	if !away {
		f = do(w.members[m])
	}
	w.mu.Unlock()
	if away {
		<-ctx.Done()
		return f, ctx.Err()
	}
	time.Sleep(w.rtt / 2)
	return f, nil
}

func (w *world) look(ctx context.Context, m int) (Fence, error) {
	return w.request(ctx, m, func(c *cluster) Fence {
		w.looks++
		return Fence{Epoch: 1, Fence: c.fence, Rev: int64(len(c.log))}
	})
}

func (w *world) raise(ctx context.Context, m int, rev int64) (Fence, error) {
	return w.request(ctx, m, func(c *cluster) Fence {
		w.raises++
		raised := rev > c.fence
		if raised {
			c.fence = rev
			w.appendLocked(m, effect{fence: rev})
		}
		return Fence{1, c.fence, int64(len(c.log)), raised}
	})
}

// land lands a stamp on a member, or leaves a mark that it came too late.
func (w *world) land(m int, stamp int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := effect{landed: stamp}
	if w.members[m].fence >= stamp {
		e = effect{killed: stamp}
	}
	w.appendLocked(m, e)
}

func (w *world) appendLocked(m int, e effect) {
	c := w.members[m]
	c.log = append(c.log, e)
	n := len(c.log)
	for _, p := range w.processes {
		time.AfterFunc(p.lag, func() { p.take(m, n) })
	}
}

// take shows a process the log of a member up to a revision.
func (p *process) take(m, n int) {
	p.w.mu.Lock()
	for ; p.pos[m] < n; p.pos[m]++ {
		e := p.w.members[m].log[p.pos[m]]
		p.highest = max(p.highest, e.landed, e.killed)
		switch {
		case e.fence > 0:
			p.fences[m] = e.fence
		case e.killed > 0:
			p.marks++
			p.seen[e.killed] = true
		default:
			p.seen[e.landed] = true
		}
	}
	for p.seen[p.closed+1] || p.fencedLocked() > p.closed {
		p.closed++
	}
	p.reaching.Broadcast()
	p.w.mu.Unlock()
	p.f.Kick()
}

func (p *process) fencedLocked() int64 {
	low := p.fences[0]
	for _, f := range p.fences {
		low = min(low, f)
	}
	return low
}

func (p *process) waitReached(ctx context.Context, m, rev int) error {
	stop := context.AfterFunc(ctx, p.reaching.Broadcast)
	defer stop()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for p.pos[m] < rev && ctx.Err() == nil {
		p.reaching.Wait()
	}
	return ctx.Err()
}

func (p *process) Gap() (missing, known int64, blocked bool) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.closed + 1, p.highest, p.highest > p.closed
}

func (p *process) Closed() int64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.closed
}

func (p *process) FencedUpTo() int64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.fencedLocked()
}

func (p *process) FencedMarks() uint64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.marks
}

// untilClosed waits until all processes have closed a stamp, and returns how long that took.
func (w *world) untilClosed(t *testing.T, stamp int64) time.Duration {
	begun := time.Now()
	for _, p := range w.processes {
		for p.Closed() < stamp {
			require.Less(t, time.Since(begun), 10*time.Second)
			time.Sleep(time.Millisecond)
		}
	}
	return time.Since(begun)
}

// A stamp that never lands is fenced off soon after the grace, once on each member.
func TestADeadStampIsFencedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		w.land(1, 2)
		require.Less(t, w.untilClosed(t, 2), MinGrace+5*leastSpread)
		require.Equal(t, 3, w.raises)
	})
}

// However many processes see the same gaps, few of them raise, and who is alone does not wait for others.
func TestOfManyProcessesFewRaise(t *testing.T) {
	for _, n := range []int{1, 5, 50} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, n)
			stamp := int64(0)
			gap := func() time.Duration {
				stamp += 2
				w.land(int(stamp)%3, stamp)
				took := w.untilClosed(t, stamp)
				time.Sleep(quiet)
				return took
			}
			for range 60 { // they learn of each other
				gap()
			}
			w.mu.Lock()
			w.raises, w.looks = 0, 0
			w.mu.Unlock()
			const gaps = 100
			var all time.Duration
			for range gaps {
				all += gap()
			}
			t.Logf("%d processes: %.1f raises, %.1f looks a gap, %v", n, float64(w.raises)/gaps, float64(w.looks)/gaps, all/gaps)
			require.LessOrEqual(t, w.raises, 2*3*gaps, "of %d processes", n)
			require.LessOrEqual(t, w.looks, 4*3*gaps, "of %d processes", n)
			require.Less(t, all/gaps, MinGrace+mostSpread)
			if n == 1 {
				require.Less(t, all/gaps, MinGrace+5*leastSpread)
			}
		})
	}
}

// Landings that become slow, little by little, are never fenced: the grace is ahead of them.
func TestTheGraceGrowsBeforeAFenceKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3)
		stamp := int64(0)
		longest := time.Duration(0)
		for delay := 2 * time.Millisecond; delay < time.Second; delay = delay * 5 / 4 {
			for range 3 {
				stamp += 2
				w.land(0, stamp) // the one before is known from here on
				time.Sleep(delay)
				w.land(1, stamp-1)
				w.untilClosed(t, stamp)
			}
			longest = delay
		}
		require.Zero(t, w.raises)
		require.Greater(t, w.processes[0].f.Grace(), longest)
		time.Sleep(10 * forget)
		w.processes[0].f.Kick()
		synctest.Wait()
		require.Equal(t, MinGrace, w.processes[0].f.Grace(), "quiet times")
	})
}

// Dead stamps do not make the grace grow: they say nothing of landings.
func TestDeadStampsDoNotMakeTheGraceGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2)
		for stamp := int64(2); stamp < 100; stamp += 2 {
			w.land(0, stamp)
			w.untilClosed(t, stamp)
		}
		require.Equal(t, MinGrace, w.processes[0].f.Grace())
	})
}

// Where a fence has killed a stamp all the same, the grace doubles for everybody, and halves in quiet times.
func TestKillsDoubleTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2)
		stamp := int64(0)
		for want := 2 * MinGrace; want < MaxGrace; want *= 2 {
			stamp += 2
			w.land(0, stamp)
			w.untilClosed(t, stamp)
			time.Sleep(w.processes[0].f.Grace())
			w.land(1, stamp-1) // too late
			time.Sleep(2 * w.processes[0].lag)
			synctest.Wait()
			for _, p := range w.processes {
				require.Equal(t, want, p.f.Grace())
			}
		}
		time.Sleep(20 * quiet)
		w.processes[0].f.Kick()
		synctest.Wait()
		require.Equal(t, MinGrace, w.processes[0].f.Grace())
	})
}

// A process that is late itself sees gaps that there are not: it finds out, and fences nothing. Nor does it take a member for one that is away.
func TestASlowProcessFencesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		p := w.processes[0]
		p.lag = 700 * time.Millisecond
		w.land(0, 1)
		p.f.Await(1, 1)
		reading, cancel := p.f.WhileMoving(t.Context(), answerWithin)
		defer cancel()
		w.untilClosed(t, 1)
		require.Zero(t, w.raises)
		require.NotZero(t, w.looks)
		require.NoError(t, reading.Err())
	})
}

// A member that does not answer holds up the closed revision: readers learn of it, but not before their time.
func TestReadersLearnOfAMemberThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		p := w.processes[0]
		w.members[1].away = true
		begun := time.Now()
		early, cancel := p.f.WhileMoving(t.Context(), 0)
		defer cancel()
		late, cancel := p.f.WhileMoving(t.Context(), 3*time.Second)
		defer cancel()
		p.f.Await(1, 1)
		<-early.Done()
		require.ErrorIs(t, context.Cause(early), ErrStuck)
		require.Less(t, time.Since(begun), 2*answerWithin)
		<-late.Done()
		require.ErrorIs(t, context.Cause(late), ErrStuck)
		require.Equal(t, 3*time.Second, time.Since(begun))

		w.mu.Lock()
		w.members[1].away = false
		w.mu.Unlock()
		w.untilClosed(t, 1)
		later, cancel := p.f.WhileMoving(t.Context(), 0)
		defer cancel()
		time.Sleep(time.Minute)
		require.NoError(t, later.Err())
	})
}

// What nobody in this process waits for is left to others, for a while.
func TestWhatNobodyWantsIsFencedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		w.processes[0].wanted = false
		w.land(0, 2)
		took := w.untilClosed(t, 2)
		require.Greater(t, took, patience)
		require.Less(t, took, patience+MinGrace+5*leastSpread)
	})
}

// The time that a process waits is within what it spreads them over, and later the more rivals it has.
func TestElection(t *testing.T) {
	e := newElection()
	lone, _ := e.spread()
	require.Equal(t, leastSpread, lone)
	for range 500 {
		e.over(false)
	}
	require.EqualValues(t, mostRivals, e.rivals())
	for _, u := range []float64{0, 0.001, 0.5, 0.999} {
		e.rand = func() float64 { return u }
		over, _ := e.spread()
		require.LessOrEqual(t, e.wait(), over)
	}
	over, _ := e.spread()
	e.rand = func() float64 { return 0.5 }
	require.Greater(t, e.wait(), over*3/4, "most of them are late")
	e.requested(time.Hour)
	over, _ = e.spread()
	require.Equal(t, mostSpread, over)
}

// A reader learns of a member that is away though no gap is overdue for long: landings were slow before.
func TestReadersNeedNotWaitForTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		p := w.processes[0]
		synctest.Wait()
		p.f.grace.doubled = MaxGrace
		p.f.grace.publish()
		w.members[1].away = true
		p.f.Await(1, 1)
		reading, cancel := p.f.WhileMoving(t.Context(), answerWithin)
		defer cancel()
		begun := time.Now()
		<-reading.Done()
		require.ErrorIs(t, context.Cause(reading), ErrStuck)
		require.LessOrEqual(t, time.Since(begun), answerWithin+answerWithinMost)
	})
}

// Where all members are slow to answer, and their streams to deliver, none is away.
func TestASlowMachineHasNoMemberAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		p := w.processes[0]
		w.rtt, p.lag = 400*time.Millisecond, 900*time.Millisecond
		w.land(0, 1)
		p.f.Await(1, 1)
		reading, cancel := p.f.WhileMoving(t.Context(), answerWithin)
		defer cancel()
		w.untilClosed(t, 1)
		require.NoError(t, reading.Err())
		require.Zero(t, w.raises)
	})
}
