package main

var (
	rebuildsClaim     = newRule("awRebuild", "a clock is rebuilt under a nonce and a claim (caught together with awRebuildE)")
	rebuildsFromEpoch = newRule("awRebuildE", "without a claim, a clock is rebuilt above the process's epoch of now, not of the add that failed")
)

// rebuild makes a lost clock anew: it claims an epoch, raises the members to it, and begins above all that they have seen.
func (t *Task) rebuild() {
	w, p := t.w, t.p
	w.rebuilds++
	epoch, nonce := p.epoch+1, int64(0)
	if !w.holds(rebuildsFromEpoch) {
		epoch = t.addEpoch + 1
	}
	if w.holds(rebuildsClaim) {
		var ok bool
		if epoch, nonce, ok = t.claimEpoch(); !ok {
			return
		}
	}
	epoch, ok := t.raiseEpochs(epoch)
	if !ok {
		return
	}
	base, ok := t.readBase()
	if !ok {
		return
	}
	r, ok := t.ask("createClock", func() any {
		if !w.coord.has && w.coord.nonce == nonce {
			w.coord.has, w.coord.epoch, w.coord.clock = true, epoch, base
		}
		return w.coord
	})
	if !ok {
		return
	}
	if c := r.(Coord); c.has {
		p.epoch = max(p.epoch, c.epoch)
	}
}

// claimEpoch fixes the coordinator's life by a nonce, and claims an epoch above the members' for it.
func (t *Task) claimEpoch() (epoch, nonce int64, ok bool) {
	w, p := t.w, t.p
	w.nonces++
	mine := w.nonces
	r, ok := t.ask("nonce", func() any {
		if w.coord.nonce == 0 {
			w.coord.nonce = mine
		}
		return w.coord
	})
	if !ok {
		return 0, 0, false
	}
	c := r.(Coord)
	if c.has {
		p.epoch = max(p.epoch, c.epoch)
		return 0, 0, false
	}
	nonce = c.nonce
	for _, m := range w.members {
		r, ok := t.ask("repoch", func() any { return m.epoch })
		if !ok {
			return 0, 0, false
		}
		epoch = max(epoch, r.(int64))
	}
	epoch++
	r, ok = t.ask("claim", func() any {
		if w.coord.nonce == nonce && w.coord.claim == 0 {
			w.coord.claim = epoch
		}
		return w.coord
	})
	if !ok {
		return 0, 0, false
	}
	c = r.(Coord)
	return c.claim, nonce, c.nonce == nonce && !c.has
}

// raiseEpochs raises every member to an epoch. A member above it says that somebody has rebuilt a later life of the coordinator.
func (t *Task) raiseEpochs(epoch int64) (int64, bool) {
	w := t.w
again:
	for _, m := range w.members {
		r, ok := t.ask("setEpoch", func() any { return w.setEpoch(m, epoch) })
		if !ok {
			return 0, false
		}
		if theirs := r.(FenceReply).epoch; theirs > epoch {
			if w.holds(rebuildsClaim) {
				return 0, false
			}
			epoch = theirs
			goto again
		}
	}
	return epoch, true
}

// readBase finds where the clock begins: at the highest fence or stamp that the members have seen.
func (t *Task) readBase() (int64, bool) {
	base := int64(1)
	for _, m := range t.w.members {
		r, ok := t.ask("readB", func() any { return max(m.F, m.clock.max) })
		if !ok {
			return 0, false
		}
		base = max(base, r.(int64))
	}
	return base, true
}
