package fencer

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// leastSpread is the time over which a lone process spreads its raises, and what a request takes at least.
	leastSpread = 5 * time.Millisecond
	// mostSpread bounds the time over which raises are spread.
	mostSpread = 250 * time.Millisecond
	// mostRivals bounds the estimate.
	mostRivals = 1024
)

// election decides when a process tries to raise, so that of any number of processes that see the same gap about one does. All of
// them draw the same kind of random time, most of them a late one, the more so the more they are: the first has raised
// before most of the others would, and these see its fence. How many they are shows in who was first in the last gaps: one of
// n is in a share of 1/n.
type election struct {
	won  float64       // share of the gaps, lately, that this process was first in
	took time.Duration // what a request to the members takes, lately: until then nobody sees a fence
	rand func() float64
}

func newElection() *election { return &election{won: 1, rand: rand.Float64} }

// over notes who was first.
func (e *election) over(won bool) {
	x := 0.0
	if won {
		x = 1
	}
	e.won += (x - e.won) / 8
}

// requested notes how long a request took.
func (e *election) requested(took time.Duration) { e.took += (took - e.took) / 4 }

// rivals is about how many processes see the same gaps, this one among them.
func (e *election) rivals() float64 { return min(1/max(e.won, 1.0/mostRivals), mostRivals) }

// spread is the time over which they try, and how steeply their number grows in it, as an exponent.
func (e *election) spread() (over time.Duration, steep float64) {
	rivals := math.Log(e.rivals())
	return min(leastSpread+time.Duration(float64(max(e.took, leastSpread))*rivals), mostSpread), 1 + rivals
}

// wait draws how long this process waits: of a time that has the density of an exponential function that grows.
func (e *election) wait() time.Duration {
	over, steep := e.spread()
	return time.Duration(float64(over) / steep * math.Log1p(e.rand()*math.Expm1(steep)))
}
