package commit

import "context"

// A caller that finds nobody on its lane flies by itself: its goroutine takes the stamp, builds the flight and sends it. The way through
// the lane's goroutines costs such a caller as much as half a round trip, and there is nothing to share. For everybody else it is a
// flight like any other.
//
// If the caller's context ends meanwhile, its requests are cancelled. A flight whose answer is missing for that, or for any other
// reason, is handed to a goroutine of the lane, which settles it, and the caller waits for it like others. So is one that was refused, whose
// stamps are still to be marked.

// claim takes the lane for a lone operation that lacks nothing. False: it has to queue.
func (l *lane) claim(op *Op) bool {
	if op.exclusive() || len(op.Missing) > 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed, l.crowd > 1, l.laden > 0, l.stalled > 0, l.taking, l.alone, len(l.queue) > 0, len(l.stamped) > 0:
		return false
	}
	l.flights, l.laden = l.flights+1, l.laden+1
	l.holdKeys(op)
	l.p.wg.Add(1)
	return true
}

// flyLone takes an operation that has claimed the lane as far as its caller's goroutine can. What is left of it, a goroutine of the lane
// does.
func (l *lane) flyLone(op *Op) {
	p := l.p
	defer p.wg.Done()
	ctx, cancel := context.WithCancel(p.ctx) // not the caller's: what it has for its own servers is nothing to ours
	defer cancel()
	defer context.AfterFunc(op.ctx, cancel)()
	first, epoch, err := p.cfg.Clock.Take(ctx, 1)
	if err != nil {
		l.disclaim(op, err)
		return
	}
	f := l.depart(op, first, epoch)
	if f == nil {
		return
	}
	if len(f.ops) == 0 { // surrendered stamps that nobody waits for
		p.wg.Go(f.fly)
		return
	}
	f.watch()
	answer := f.ask(ctx, f.ops)
	if answer.err != nil || answer.refused != nil {
		p.wg.Go(func() {
			f.conclude(answer)
			f.land()
		})
		return
	}
	f.conclude(answer)
	f.land()
}

// depart gives a lone operation its stamp and builds its flight. Nil: it does not fly now, and the lane has it or it has ended.
func (l *lane) depart(op *Op, first, epoch int64) *flight {
	l.p.hold(first, epoch, 1)
	op.stamp, op.epoch = first, epoch
	l.mu.Lock()
	if l.closed || l.stalled > 0 {
		l.freeKeys(op)
		l.leaveLocked()
		given := l.requeueLocked([]*Op{op})
		l.mu.Unlock()
		l.p.surrender(l.index, given...)
		l.wake()
		return nil
	}
	f := &flight{l: l, epoch: epoch, surrender: l.takeSurrendered(epoch, maxSurrender)}
	l.mu.Unlock()
	if f.build([]*Op{op}); !l.launch(f) {
		l.wake()
		return nil
	}
	return f
}

// disclaim ends a lone operation that got no stamp.
func (l *lane) disclaim(op *Op, err error) {
	switch {
	case op.ctx.Err() != nil:
		err = op.ctx.Err()
	case l.p.ctx.Err() != nil:
		err = l.p.ended()
	}
	l.mu.Lock()
	l.freeKeys(op)
	l.leaveLocked()
	l.mu.Unlock()
	op.finish(Result{Err: err})
	l.wake()
}
