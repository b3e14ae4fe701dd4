package main

// FenceReply shows the records of a member, and where its log is.
type FenceReply struct {
	epoch, F, clk int64
	pos           int
}

// raiseFence raises the fence, if the epoch is the member's: nothing at or below it lands any more.
func (w *World) raiseFence(m *Member, epoch, F int64) any {
	if m.epoch == epoch && m.F < F {
		m.F = F
		rv := m.recorded()
		rv.fence = true
		m.commit(rv)
	}
	return FenceReply{epoch: m.epoch, F: m.F, pos: len(m.log)}
}

// setEpoch raises the epoch.
func (w *World) setEpoch(m *Member, epoch int64) any {
	if m.epoch < epoch {
		m.epoch = epoch
		rv := m.recorded()
		rv.fence = true
		m.commit(rv)
	}
	return FenceReply{epoch: m.epoch, F: m.F, clk: m.clock.max}
}

// fenceAll raises the fence on every member.
func (t *Task) fenceAll(T, epoch int64) {
	w := t.w
	for _, m := range w.members {
		r, ok := t.ask("fence", func() any { return w.raiseFence(m, epoch, T) })
		if !ok {
			continue
		}
		if r.(FenceReply).epoch != epoch {
			t.syncEpoch()
			return
		}
		t.p.noteRaise(m.id, r.(FenceReply))
	}
}

var raisesAreNoted = newRule("awFenceStart", "a process that starts fences what it waits for, and the answer to a raise counts where the stream has reached it")

// noteRaise notes the answer to a raise: F holds at the member's revision pos. It is true for this process once its stream is there.
func (p *Process) noteRaise(member int, r FenceReply) {
	if !p.w.holds(raisesAreNoted) {
		return
	}
	s := p.streams[member]
	if s.pos >= r.pos {
		s.F = max(s.F, r.F)
		p.advance()
		return
	}
	if r.F > s.F {
		s.raises = append(s.raises, r)
	}
}
