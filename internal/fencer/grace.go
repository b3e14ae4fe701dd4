package fencer

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// MinGrace is how long a missing stamp may take, in quiet times, before it is fenced off. Usual landings take less.
	MinGrace = 20 * time.Millisecond
	// MaxGrace bounds the grace.
	MaxGrace = 2 * time.Second
	// quiet is how long no fence may have killed a stamp before what the killing added to the grace is halved.
	quiet = time.Second
	// forget is how long it takes a landing to count for half.
	forget = time.Second
	// slow is the share of the recent landings that may take longer than what the grace goes by, and headroom how many
	// times as long the grace is.
	slow     = 0.1
	headroom = 1.5
	// prior is how many quick landings are counted beside those that were seen, so that one slow one does not matter for long.
	prior = 4
)

// grace is how long a missing stamp may take before it is fenced off: half as long again as nine of ten landings took at most
// that were waited for lately, so that it grows before a fence kills anything. Where one did all the same, it doubles, and halves
// in quiet times. Of the fencer's goroutine, but for present.
type grace struct {
	published atomic.Int64

	took   [16]float64 // recent landings, by what they took: more than MinGrace/headroom times the square root of 2, to the power of the index
	weight float64     // of all of them
	at     time.Time   // of the weights

	doubled time.Duration
	killed  uint64    // marks of killed stamps at the last look
	calm    time.Time // since when no more of them came
}

func (g *grace) present() time.Duration { return time.Duration(g.published.Load()) }

func (g *grace) start(now time.Time) {
	g.at, g.calm, g.doubled = now, now, MinGrace
	g.publish()
}

func (g *grace) publish() {
	g.published.Store(int64(min(max(g.doubled, time.Duration(headroom*float64(g.usual())), MinGrace), MaxGrace)))
}

// landed notes how long a stamp was missing that landed in the end.
func (g *grace) landed(now time.Time, took time.Duration) {
	g.fade(now)
	i := -1
	for limit := float64(MinGrace) / headroom; float64(took) > limit && i < len(g.took)-1; limit *= math.Sqrt2 {
		i++
	}
	if g.weight++; i >= 0 {
		g.took[i]++
	}
	g.publish()
}

// usual is what all landings but the slowest take at most.
func (g *grace) usual() time.Duration {
	rest, limit := slow*(g.weight+prior), float64(MinGrace)/headroom*math.Pow(math.Sqrt2, float64(len(g.took)))
	for i := len(g.took) - 1; i >= 0; i-- {
		if rest -= g.took[i]; rest < 0 {
			return time.Duration(limit)
		}
		limit /= math.Sqrt2
	}
	return 0
}

// fade makes what was seen count for less.
func (g *grace) fade(now time.Time) {
	passed := now.Sub(g.at)
	if passed < forget/16 {
		return
	}
	g.at = now
	f := math.Exp2(-float64(passed) / float64(forget))
	g.weight *= f
	for i := range g.took {
		g.took[i] *= f
	}
}

// adapt takes the number of stamps that fences have killed so far: those of anybody's.
func (g *grace) adapt(now time.Time, killed uint64) {
	g.fade(now)
	switch {
	case killed != g.killed:
		if now.Sub(g.calm) >= g.present() { // one fence kills many: it counts once
			g.doubled = min(2*g.present(), MaxGrace)
			g.calm = now
		}
		g.killed = killed
	default:
		for ; now.Sub(g.calm) >= quiet; g.calm = g.calm.Add(quiet) {
			if g.doubled == MinGrace {
				g.calm = now
				break
			}
			g.doubled = max(g.doubled/2, MinGrace)
		}
	}
	g.publish()
}
