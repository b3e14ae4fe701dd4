package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// window is how long after a death the others are looked at: longer than any delay that is allowed.
	window = 300 * time.Millisecond
	// medianDelay is what is promised of what a death adds to the slowest request of a window. A gap costs a grace of 20 ms
	// and the raise of the fences, so there is room even for two cores under the race detector.
	medianDelay = 200 * time.Millisecond
	// worstDelay bounds what a fault adds to the slowest request of all, beside what a few requests take on the machine just then. Where
	// that is busy with something else, the grace has grown, up to 2 s, because of writes that were merely slow.
	worstDelay = 3 * time.Second
)

// TestDeathInTheMiddleOfAWrite: processes die at the worst moments of their writes. The stamps they leave behind hold up the
// others' reads and watches only for a moment, and what landed, landed once.
func TestDeathInTheMiddleOfAWrite(t *testing.T) {
	b := newBench(t, 2)
	machine := b.readDirectly()
	for _, p := range b.processes {
		p.Work(workload.Load{Groups: b.all(), Pace: 3 * pace, Lists: true}) // light: what is measured is not the machine
	}
	deaths := map[moment][]time.Time{}
	for i := range rounds(5) {
		for _, m := range []moment{beforeStamp, beforeLanding, afterLanding} {
			p := b.open()
			b.join(p, fmt.Sprintf("mortal%d-%d", i, m))
			p.Work(workload.Load{Groups: b.all(), Pace: pace})
			time.Sleep(rand.N(50 * time.Millisecond))
			deaths[never] = append(deaths[never], time.Now())
			time.Sleep(window)
			deaths[m] = append(deaths[m], p.die(t, m))
			time.Sleep(window)
		}
	}
	h := b.finish()
	spans := machine()
	b.requireLandings(h, len(deaths[afterLanding]))
	usual := report(t, h, deaths, never)
	for _, m := range []moment{beforeStamp, beforeLanding, afterLanding} {
		d := report(t, h, deaths, m)
		landings := median(usual.reads) // reads wait for them
		require.Less(t, median(d.reads), promised(median(usual.reads), landings))
		require.Less(t, median(d.watches), promised(median(usual.watches), landings))
		d.requireShort(t, spans)
	}
}

// promised is how long the slowest request of a window may take, after a death, where it takes so long without one. What a gap costs
// follows the landings: a grace that is half as long again as they take, and then a look at the fences and a raise. On a slow
// machine that is more than what is promised otherwise.
func promised(usual, landings time.Duration) time.Duration {
	return usual + max(3*landings, medianDelay)
}

// requireLandings requires that processes did leave writes behind that landed without their knowing: those whose last flight held
// more than deletes.
func (b *bench) requireLandings(h *workload.History, n int) {
	b.t.Helper()
	left := 0
	for _, p := range b.processes {
		if landed, _ := unknown(h, p.Name); p.wire.died == afterLanding && landed > 0 {
			left++
		}
	}
	b.t.Logf("%d of %d processes that died after a landing left writes behind", left, n)
	require.Greater(b.t, left, n/8)
}

// die makes a process die of its next request that comes to the moment, and returns when that was.
func (p *process) die(t *testing.T, m moment) time.Time {
	t.Helper()
	died := make(chan time.Time, 1)
	p.wire.died = m
	p.wire.onDeath = func() { died <- time.Now() }
	p.wire.armed.Store(int32(m))
	select {
	case at := <-died:
		p.Lose()
		go p.end() // nothing of it reaches anybody
		return at
	case <-time.After(workload.Patience):
		t.Fatalf("%s: no request came to the moment %s", p.Name, m)
		return time.Time{}
	}
}

// delays are the slowest requests of some windows, one for each.
type delays struct {
	begin          []time.Time
	reads, watches []time.Duration
}

// requireShort requires that no request took long, beside what a few requests in turn took on the machine meanwhile.
func (d delays) requireShort(t *testing.T, machine [][]workload.Span) {
	t.Helper()
	for i, at := range d.begin {
		took := max(d.reads[i], d.watches[i])
		meanwhile := workload.Span{Begin: at.Add(-took), End: at.Add(window + took)}
		require.Less(t, took, worstDelay+aFew*slowest(machine, meanwhile))
	}
}

// report prints and returns the delays after deaths at a moment.
func report(t *testing.T, h *workload.History, deaths map[moment][]time.Time, m moment) delays {
	t.Helper()
	d := delaysAfter(h, deaths[m])
	t.Logf("%d deaths %s: slowest read in %s: median %s, worst %s; slowest watch: median %s, worst %s", len(deaths[m]), m, window,
		median(d.reads), slices.Max(d.reads), median(d.watches), slices.Max(d.watches))
	return d
}

// delaysAfter finds the slowest read that was under way in the window after each death, and how far a watch was behind
// the acknowledgement of a write in it.
func delaysAfter(h *workload.History, deaths []time.Time) delays {
	reads, watches := make([]time.Duration, len(deaths)), make([]time.Duration, len(deaths))
	for i, at := range deaths {
		for _, r := range h.Reads {
			if r.Present && r.End.After(at) && r.Begin.Before(at.Add(window)) {
				reads[i] = max(reads[i], r.Took())
			}
		}
		for _, w := range h.Writes {
			if w.Rev == 0 || w.End.Before(at) || w.End.After(at.Add(window)) {
				continue
			}
			for _, s := range h.Streams {
				if arrival, ok := s.Arrival(w.Rev); ok && !s.Lost && !s.Resumed {
					watches[i] = max(watches[i], arrival.Sub(w.End))
				}
			}
		}
	}
	return delays{deaths, reads, watches}
}

func median(ds []time.Duration) time.Duration { return quantile(ds, 0.5) }

// quantile is the largest but for a share of all: of few, not the very largest.
func quantile(ds []time.Duration, q float64) time.Duration {
	return slices.Sorted(slices.Values(ds))[int(q*float64(len(ds)-1))]
}
