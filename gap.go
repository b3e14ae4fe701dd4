package metaetcd

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// minGrace is how long a missing stamp may take, in quiet times, before it is fenced off. Usual landings take less.
	minGrace = 20 * time.Millisecond
	// maxGrace bounds the grace where fences keep killing stamps that were merely slow.
	maxGrace = 2 * time.Second
	// quiet is how long no fence may have killed a stamp before the grace is halved.
	quiet = time.Second
	// gapTick is how often a gap is looked at while there is one.
	gapTick = 5 * time.Millisecond
)

// gapKeeper resolves stamps that are missing while somebody waits for them (section 6): it raises the fence on every member
// up to stamps that were known for longer than the grace. It decides nothing itself: the fence travels through the members'
// own logs, and there the write was before it, or never will be.
type gapKeeper struct {
	f     *feed
	woken chan struct{}
	grace atomic.Int64

	mu      sync.Mutex
	awaited clockReading // highest reading of the clock that somebody waits for

	// Of the run goroutine.
	epoch  int64 // of known
	known  []sighting
	fenced uint64    // marks with reason "fenced" at the last look
	calm   time.Time // since when no more of them came
}

// clockReading is a reading of the clock in an epoch. In another epoch it means nothing: a clock that was rebuilt may stand
// below it, and a fence raised to it would close revisions that are still to come.
type clockReading struct{ epoch, rev int64 }

// sighting says that at time t, stamps up to rev had been handed out.
type sighting struct {
	t   time.Time
	rev int64
}

func newGapKeeper(f *feed) *gapKeeper {
	g := &gapKeeper{f: f, woken: make(chan struct{}, 1)}
	g.grace.Store(int64(minGrace))
	return g
}

// kick makes the keeper look. It is cheap.
func (g *gapKeeper) kick() {
	select {
	case g.woken <- struct{}{}:
	default:
	}
}

// await says that somebody waits for rev, a reading of the clock in epoch.
func (g *gapKeeper) await(epoch, rev int64) {
	g.mu.Lock()
	if epoch > g.awaited.epoch || epoch == g.awaited.epoch && rev > g.awaited.rev {
		g.awaited = clockReading{epoch, rev}
	}
	g.mu.Unlock()
	g.kick()
}

// awaitedIn is the highest reading of the epoch's clock that somebody waits for, 0 if there is none.
func (g *gapKeeper) awaitedIn(epoch int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.awaited.epoch != epoch {
		return 0
	}
	return g.awaited.rev
}

// Grace is how long a missing stamp may take before it is fenced off.
func (g *gapKeeper) Grace() time.Duration { return time.Duration(g.grace.Load()) }

func (g *gapKeeper) run() {
	defer g.f.wg.Done()
	g.calm = time.Now()
	tick := time.NewTicker(gapTick)
	tick.Stop()
	for ticking := false; ; {
		select {
		case <-g.woken:
		case <-tick.C:
		case <-g.f.ctx.Done():
			tick.Stop()
			return
		}
		open := g.look(time.Now())
		if open && !ticking {
			tick.Reset(gapTick)
		} else if !open && ticking {
			tick.Stop()
		}
		ticking = open
	}
}

// look notes what is known, adapts the grace, and raises fences where a gap is overdue. It reports whether there is a gap.
func (g *gapKeeper) look(now time.Time) bool {
	g.adapt(now)
	if epoch := g.f.c.clock.Epoch(); epoch != g.epoch {
		g.epoch, g.known = epoch, nil
	}
	awaited := g.awaitedIn(g.epoch)
	missing, known, blocked := g.f.log.Gap()
	known = max(known, awaited)
	if missing == 0 {
		return true // the lock keeper's
	}
	if missing > known {
		g.known = g.known[:0]
		return false
	}
	if n := len(g.known); n == 0 || g.known[n-1].rev < known {
		g.known = append(g.known, sighting{now, known})
	}
	due := g.due(now.Add(-g.Grace()))
	if due >= missing && (blocked || awaited >= missing) && !g.f.c.commit.Holds(missing) {
		g.raise(g.epoch, due)
	}
	return true
}

// due is the highest stamp that was known at time t. Older sightings are forgotten.
func (g *gapKeeper) due(t time.Time) int64 {
	n := 0
	for n < len(g.known) && !g.known[n].t.After(t) {
		n++
	}
	if n == 0 {
		return 0
	}
	g.known = append(g.known[:0], g.known[n-1:]...)
	return g.known[0].rev
}

// adapt doubles the grace when a fence killed a stamp that was on its way, and halves it in quiet times.
func (g *gapKeeper) adapt(now time.Time) {
	fenced := g.f.log.FencedMarks()
	switch {
	case fenced != g.fenced:
		if now.Sub(g.calm) >= g.Grace() { // one raise kills many: it counts once
			g.grace.Store(int64(min(2*g.Grace(), maxGrace)))
			g.calm = now
		}
		g.fenced = fenced
	default:
		for ; now.Sub(g.calm) >= quiet; g.calm = g.calm.Add(quiet) {
			if g.Grace() == minGrace {
				g.calm = now
				break
			}
			g.grace.Store(int64(max(g.Grace()/2, minGrace)))
		}
	}
}

// raise raises the fence to rev, a stamp of epoch, on the members where it is lower, after a jitter in which another process may have done it.
func (g *gapKeeper) raise(epoch, rev int64) {
	if pause(g.f.ctx, rand.N(gapTick)) != nil {
		return
	}
	var wg sync.WaitGroup
	for _, m := range g.f.c.members {
		if s := g.f.log.Position(m.index); s.Epoch == epoch && s.Fence >= rev {
			continue
		}
		wg.Go(func() { g.raiseMember(m, epoch, rev) })
	}
	wg.Wait()
}

func (g *gapKeeper) raiseMember(m *member, epoch, rev int64) {
	ctx, cancel := context.WithTimeout(g.f.ctx, time.Second)
	defer cancel()
	r, err := m.raise(ctx, epoch, rev)
	if err != nil {
		g.f.c.cfg.Logger.Debug("could not raise a fence", zap.String("member", m.name), zap.Error(err))
		return
	}
	if r.epoch == epoch && r.fence == rev {
		g.f.c.metrics.fences.Inc()
	}
	if r.epoch != epoch {
		_, _ = g.f.c.clock.Sync(ctx)
		return
	}
	g.f.log.FenceHolds(m.index, r.epoch, r.fence, r.rev)
}
