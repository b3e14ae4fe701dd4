package fencer

import (
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
	// forget is how long it takes the longest landing seen to count for half, when all later ones are quicker.
	forget = 2 * time.Second
	// headroom is how many times as long as the longest recent landing the grace is.
	headroom = 2
)

// grace is how long a missing stamp may take before it is fenced off: twice what the slowest of the landings took that were waited for
// lately, so that it grows before a fence kills anything. Where one did all the same, it doubles, and halves in quiet times.
// Of the fencer's goroutine, but for present.
type grace struct {
	published atomic.Int64

	slowest time.Duration // landing, at a time
	at      time.Time

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
	g.published.Store(int64(min(max(g.doubled, headroom*g.slowest, MinGrace), MaxGrace)))
}

// landed notes how long a stamp was missing that landed in the end.
func (g *grace) landed(now time.Time, took time.Duration) {
	g.fade(now)
	g.slowest = max(g.slowest, took)
	g.publish()
}

func (g *grace) fade(now time.Time) {
	for ; now.Sub(g.at) >= forget/8; g.at = g.at.Add(forget / 8) {
		if g.slowest = g.slowest * 11 / 12; g.slowest < MinGrace/headroom { // (11/12)^8 is a half
			g.slowest, g.at = 0, now
			return
		}
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
