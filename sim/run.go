package main

import (
	"fmt"
	"math/rand"
)

// run makes a world from a seed, lets it go wrong for a while, then lets everybody finish, and checks what came of it.
func run(seed int64, s Settings) *World {
	w := newWorld(seed, s)
	steps := (500 + w.rng.Intn(6000)) * w.size
	for w.step < steps && w.viol == "" && (w.live > 0 || len(w.procs) < 3) {
		w.doStep()
	}
	w.finish()
	if w.viol == "" {
		w.drain()
	}
	w.stopTasks()
	if w.viol == "" {
		w.check()
	}
	return w
}

func newWorld(seed int64, s Settings) *World {
	r := rand.New(rand.NewSource(seed))
	w := &World{Settings: s, rng: r, byStamp: map[int64]*Op{}}
	for i := range 2 + r.Intn(2) {
		w.members = append(w.members, &Member{id: i, epoch: 1, decisions: map[int64]*Decision{}})
	}
	w.keys = len(w.members) * 2 * (1 + r.Intn(2))
	w.coord = Coord{has: true, epoch: 1, clock: 1}
	w.backup = w.coord
	pick := func(a ...float64) float64 { return a[r.Intn(len(a))] }
	w.timeout = pick(0, 0.01, 0.05)
	w.drop = pick(0, 0.02, 0.1)
	w.grace = pick(0.01, 0.05, 0.3)
	w.Rates.crash = pick(0, 0.0005, 0.002)
	w.Rates.loss = pick(0, 0.0005, 0.002, 0.005) * s.loss
	w.slow = pick(0, 0.05, 0.2)
	for range 2 + r.Intn(3) {
		w.newProcess()
	}
	return w
}

// finish ends the faults. Every client must come to an end then, and every lock must go.
func (w *World) finish() {
	w.fair = true
	w.log("FAIR")
	limit := w.step + 150000
	for w.step < limit && w.viol == "" && (w.live > 0 || w.locksLeft()) {
		w.doStep()
	}
	if w.viol == "" && (w.live > 0 || w.locksLeft()) {
		w.fail("liveness: %d clients stuck, locks or decisions left: %v; coord %+v", w.live, w.locksLeft(), w.coord)
		w.logStuck()
	}
}

func (w *World) logStuck() {
	if !w.trace {
		return
	}
	for _, m := range w.members {
		fmt.Printf("M%d epoch %d F %d clk %d slots %v lock %v whole %v txn %v\n", m.id, m.epoch, m.F, m.clk, m.slots, m.lock, m.whole, m.decisions)
	}
	for _, p := range w.procs {
		fmt.Printf("p%d up %v ready %v epoch %d W %d streams", p.id, p.up, p.ready, p.epoch, p.W)
		for _, s := range p.streams {
			fmt.Printf(" %d: pos %d epoch %d F %d", s.m.id, s.pos, s.epoch, s.F)
		}
		fmt.Printf(" need %v got %v\n", p.need, p.got)
	}
}

// drain lets what is still on its way arrive: it may break a promise, too.
func (w *World) drain() {
	for range 20000 {
		if len(w.messages) == 0 {
			break
		}
		m := w.takeMessage(w.rng.Intn(len(w.messages)))
		m.reply, m.done = m.exec(), true
	}
	for _, p := range w.procs {
		if !p.up {
			continue
		}
		for _, s := range p.streams {
			for s.pos >= 0 && s.pos < len(s.m.log) {
				p.deliver(s)
			}
		}
	}
}

func (w *World) stopTasks() {
	for _, p := range w.procs {
		for _, t := range p.tasks {
			if !t.done {
				t.done = true
				t.stop()
			}
		}
	}
}
