package main

import (
	"fmt"
	"math/rand"
)

// Settings are what a run is made from, besides its seed.
type Settings struct {
	Without
	cross   int     // percent of the writes that may go to several members
	loss    float64 // factor on how often the coordinator is lost
	maxLoss int     // how often it is lost at most
	size    int     // factor on the length of a run
	trace   bool    // print every step
}

// Rates are the probabilities of a run, by step or by request.
type Rates struct {
	timeout, drop, grace, crash, loss, slow, breaks, compactions float64
}

// World is one run: members and coordinator, which are atomic stores, processes, and the messages between them. A single
// goroutine at a time runs in it, and every choice comes from rng: a seed gives the same run each time.
type World struct {
	Settings
	Rates
	rng  *rand.Rand
	step int
	fair bool   // no more faults: everybody has to come to an end
	viol string // the first promise that was broken

	coord, backup Coord
	losses        int
	foreign       int   // how many foreign writes are to come
	foreigns      int   // how many there were
	compacted     int64 // what the meta cluster is compacted at
	rebuilds      int

	keys     int
	clients  int // of a process, at most
	watchful bool
	members  []*Member
	procs    []*Process
	tasks    []*Task
	messages []*Message
	live     int // clients that are not done

	ops     []*Op
	landed  []*Op
	watched int // events that watchers got
	byStamp map[int64]*Op

	nonces, ids int64 // the last ones that were given out
}

// fail notes that a promise was broken. Only the first counts.
func (w *World) fail(s string, a ...any) {
	if w.viol == "" {
		w.viol = fmt.Sprintf(s, a...)
		w.log("VIOLATION %s", w.viol)
	}
}

func (w *World) log(s string, a ...any) {
	if w.trace {
		fmt.Printf("%6d "+s+"\n", append([]any{w.step}, a...)...)
	}
}

// slotOf and memberOf place a key: two keys share a slot.
func (w *World) slotOf(key int) int   { return key / 2 }
func (w *World) memberOf(key int) int { return (key / 2) % len(w.members) }

// slotsOf are the slots of some keys, ascending.
func (w *World) slotsOf(keys []int) (slots []int) {
	for _, k := range keys {
		slots = append(slots, w.slotOf(k))
	}
	return sortedSet(slots)
}

func (w *World) coin(p float64) bool { return w.rng.Float64() < p }
