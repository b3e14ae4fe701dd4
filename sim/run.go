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
	w.clients = 3 + 5*r.Intn(2)*r.Intn(2)
	w.coord = Coord{has: true, epoch: 1, clock: 1}
	w.backup = w.coord
	pick := func(a ...float64) float64 { return a[r.Intn(len(a))] }
	w.timeout = pick(0, 0.01, 0.05)
	w.drop = pick(0, 0.02, 0.1)
	w.grace = pick(0.01, 0.05, 0.3)
	w.Rates.crash = pick(0, 0.0005, 0.002)
	w.Rates.loss = pick(0, 0.0005, 0.002, 0.005) * s.loss
	w.slow = pick(0, 0.05, 0.2)
	w.breaks = pick(0, 0.005, 0.02)
	w.compactions = pick(0, 0, 0.002, 0.01)
	w.foreign = max(0, r.Intn(6)-4)
	if w.watchful = r.Intn(3) == 0; w.watchful { // watchers, and what goes wrong with them
		w.breaks, w.compactions, w.foreign, w.clients = pick(0.01, 0.05), pick(0, 0.02, 0.05), 0, 8
	}
	for range 2 + r.Intn(3) {
		w.newProcess()
	}
	return w
}

// finish ends the faults. Every client must come to an end then, and every lock must go.
func (w *World) finish() {
	w.fair, w.grace = true, max(w.grace, 0.1)
	w.log("FAIR")
	limit := w.step + 150000
	left := func() bool { return w.live > 0 || w.locksLeft() || w.watchersBehind() || w.foreignUnnoticed() }
	for w.step < limit && w.viol == "" && left() {
		w.doStep()
	}
	if w.viol == "" && left() {
		w.fail("liveness: %d clients stuck, locks or decisions left: %v; watchers behind: %v; foreign writes unnoticed: %v; coord %+v",
			w.live, w.locksLeft(), w.watchersBehind(), w.foreignUnnoticed(), w.coord)
		w.logStuck()
	}
}

func (w *World) logStuck() {
	if !w.trace {
		return
	}
	for _, m := range w.members {
		fmt.Printf("M%d epoch %d F %d clock %v slots %v lock %v whole %v txn %v\n", m.id, m.epoch, m.F, m.clock, m.slots, m.lock, m.whole, m.decisions)
	}
	for _, p := range w.procs {
		fmt.Printf("p%d up %v ready %v epoch %d W %d streams", p.id, p.up, p.ready, p.epoch, p.W)
		for _, s := range p.streams {
			fmt.Printf(" %d: pos %d epoch %d F %d", s.m.id, s.pos, s.epoch, s.F)
		}
		fmt.Printf(" need %v got %v\n", p.need, p.got)
		for _, s := range p.streams {
			for _, src := range s.sources {
				fmt.Printf("  source of M%d: keys %b [%d,%d) complete %d created %v dead %v\n",
					s.m.id, src.nat.keys, src.from, src.until, src.complete, src.created, src.dead)
			}
		}
		for _, wt := range p.watchers {
			fmt.Printf("  watcher of %b: [%d,%d) joined %v ended %v\n", wt.keys, wt.first, wt.next, wt.joined, wt.ended)
		}
		if len(p.watchers) > 0 {
			fmt.Printf("  covered %v gone %v\n", p.covered, p.gone)
		}
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
			for !s.conn.idle() {
				w.serve(s.conn)
				w.arrive(s.conn)
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
