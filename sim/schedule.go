package main

import "slices"

var neverRestored = newRule("restore", "the coordinator loses everything or nothing: it is never put back to an earlier state")

// doStep lets one task, message or stream go on, whichever chance picks; and then, perhaps, something breaks.
func (w *World) doStep() {
	w.step++
	var acted bool
	switch x := w.rng.Intn(100); {
	case x < 40:
		acted = w.stepTask()
	case x < 70:
		acted = w.stepMessage()
	default:
		acted = w.stepStream()
	}
	if acted && !w.fair {
		w.stepFaults()
	}
}

func (w *World) stepTask() bool {
	if len(w.tasks) == 0 {
		return false
	}
	t := w.tasks[w.rng.Intn(len(w.tasks))]
	switch {
	case t.message != nil:
		w.stepAnswer(t)
	case t.cond == nil || t.cond():
		w.resume(t, came)
	case t.grace && w.coin(w.grace):
		w.resume(t, graceOver)
	}
	return true
}

// stepAnswer brings a task the answer to its message, or lets it give up.
func (w *World) stepAnswer(t *Task) {
	m := t.message
	switch {
	case m.done && !w.fair && w.coin(w.drop):
		w.log("lost reply %s p%d", m.desc, t.p.id)
		w.resume(t, lostAnswer)
	case m.done:
		w.resume(t, came)
	case m.gone || !w.fair && w.coin(w.timeout):
		w.log("timeout %s p%d", m.desc, t.p.id)
		w.resume(t, lostAnswer)
	}
}

func (w *World) stepMessage() bool {
	if len(w.messages) == 0 {
		return false
	}
	i := w.rng.Intn(len(w.messages))
	if !w.fair && w.messages[i].slow > w.step {
		return false
	}
	m := w.takeMessage(i)
	if !w.fair && w.coin(w.drop) {
		m.gone = true
		w.log("drop %s", m.desc)
		return false
	}
	m.reply, m.done = m.exec(), true
	if w.trace {
		w.log("exec %s -> %+v", m.desc, m.reply)
	}
	return true
}

func (w *World) takeMessage(i int) *Message {
	m, last := w.messages[i], len(w.messages)-1
	w.messages[i] = w.messages[last]
	w.messages = w.messages[:last]
	return m
}

func (w *World) stepStream() bool {
	p := w.procs[w.rng.Intn(len(w.procs))]
	if !p.up {
		return false
	}
	var c *Conn
	if i := w.rng.Intn(len(w.members) + len(p.replays)); i < len(w.members) {
		c = p.streams[i].conn
	} else {
		c = p.replays[i-len(w.members)]
	}
	if len(c.watches)+len(c.out) == 0 || !w.fair && c.slow > w.step {
		return false
	}
	if !w.fair && w.coin(w.slow/4) {
		c.slow = w.step + w.rng.Intn(1500)
		return false
	}
	if !w.fair && w.coin(w.breaks) {
		w.breakOff(c)
	}
	for range 3 {
		w.serve(c)
	}
	for range 1 + w.rng.Intn(3) {
		w.arrive(c)
		w.halt(p)
	}
	return true
}

// halt stops a process that met a foreign write. It begins anew, behind it.
func (w *World) halt(p *Process) {
	if p.up && p.halted {
		w.crash(p)
		w.newProcess()
	}
}

func (w *World) stepFaults() {
	if w.coin(w.Rates.crash) {
		if p := w.procs[w.rng.Intn(len(w.procs))]; p.up {
			w.crash(p)
			w.newProcess()
		}
	}
	if w.losses < w.maxLoss && w.coin(w.Rates.loss) {
		w.losses++
		w.loseCoordinator()
	}
	if w.coin(w.compactions) {
		w.startCompaction(w.procs[w.rng.Intn(len(w.procs))])
	}
	if w.foreign > 0 && w.coin(0.001) {
		w.foreign--
		w.writeForeign(w.members[w.rng.Intn(len(w.members))])
	}
	if w.coin(0.002) {
		w.backup = w.coord
	}
}

// writeForeign writes what is not metaetcd's to a member.
func (w *World) writeForeign(m *Member) {
	rv := m.revision()
	rv.foreign = true
	w.foreigns++
	m.commit(rv)
	w.log("FOREIGN write on M%d: %d", m.id, len(m.log))
}

// foreignUnnoticed tells whether a process still follows a member with a foreign write.
func (w *World) foreignUnnoticed() bool {
	return w.foreigns > 0 && slices.ContainsFunc(w.procs, func(p *Process) bool {
		return p.up && slices.ContainsFunc(p.streams, func(s *Stream) bool {
			return s.pos >= 0 && slices.ContainsFunc(s.m.log[s.begin:], func(rv Revision) bool { return rv.foreign })
		})
	})
}

func (w *World) loseCoordinator() {
	if w.holds(neverRestored) {
		w.coord = Coord{}
		w.log("COORD LOST")
		return
	}
	w.coord = w.backup
	w.log("COORD RESTORED to %+v", w.coord)
}
