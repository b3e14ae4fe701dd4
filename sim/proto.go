package main

import "sort"

type BRep struct {
	wrong bool
	epoch int64
	outs  []Out
}

func (w *World) noteLanded(op *Op, T int64, evs []Ev, first bool) {
	if first {
		op.landed++
		if op.landed > 1 {
			w.fail("op %d applied twice", op.id)
		}
		if o := w.lT[T]; o != nil && o != op {
			w.fail("stamp %d landed twice (ops %d, %d)", T, o.id, op.id)
		}
		w.lT[T] = op
		op.T = T
		w.landed = append(w.landed, op)
	}
	op.evs = append(op.evs, evs...)
	for _, p := range w.procs {
		if p.ready && T <= p.W && first {
			w.fail("stamp %d (op %d) lands, but p%d closed W=%d", T, op.id, p.id, p.W)
		}
	}
}

func (m *Member) put(e Ev, rev int) Ev {
	o := m.keys[e.key]
	if e.del {
		m.keys[e.key] = KV{}
		return e
	}
	e.kv.ver = o.ver + 1
	e.kv.nmod = rev
	e.kv.ncreate = o.ncreate
	if o.ver == 0 {
		e.kv.ncreate = rev
	}
	m.keys[e.key] = e.kv
	return e
}

func (w *World) batch(m *Member, epoch int64, ops []*MOp) any {
	if m.epoch != epoch && !w.f.noEpoch {
		return BRep{wrong: true, epoch: m.epoch}
	}
	rev := len(m.log) + 1
	rv := MRev{epoch: m.epoch, F: m.F}
	rep := BRep{}
	pre := *m
	for _, o := range ops {
		T := o.T
		ok := (w.f.noFence || pre.F < T) && (pre.whole == 0 || w.f.xWholeLock)
		if o.excl {
			ok = ok && pre.clk < T
			if !w.f.awExclLock {
				for _, l := range pre.lock {
					ok = ok && l == 0
				}
			}
		}
		for _, s := range o.slots {
			if o.excl { // the clock and the locks say it all
				break
			}
			ok = ok && pre.slots[s] < T && pre.lock[s] == 0
		}
		for _, p := range o.pins {
			kv := &pre.keys[p.key]
			if p.create {
				ok = ok && kv.ncreate == p.n && kv.stamp < T
			} else {
				ok = ok && kv.nmod == p.n
			}
		}
		if o.op.read == 4 && !w.f.awFb {
			ok = ok && pre.keys[o.op.rkey].stamp < T
		}
		out := Out{T: T, epoch: epoch}
		rv.marks = append(rv.marks, Mark{T, ok})
		if !ok {
			out.st = 1
			rep.outs = append(rep.outs, out)
			if !w.f.awClkRef {
				m.clk = max(m.clk, T)
			}
			continue
		}
		if o.op.read == 4 {
			kv := pre.keys[o.op.rkey]
			out.prevs = encKey(&kv)
			for _, s := range o.mark {
				m.slots[s] = T
			}
			m.clk = max(m.clk, T)
			rep.outs = append(rep.outs, out)
			for _, p := range w.procs {
				if p.ready && T <= p.W {
					w.fail("fenced read stamp %d lands, p%d closed W=%d", T, p.id, p.W)
				}
			}
			continue
		}
		evs := o.evs
		if o.excl {
			st := pre.keys
			e, a := eval(&st, o.op, T)
			evs, out.prevs = e, a
			m.F = T
			rv.F, rv.fence = T, true
		} else {
			st := pre.keys
			_, out.prevs = eval(&st, o.op, T)
		}
		var done []Ev
		for _, e := range evs {
			if e.del && m.keys[e.key].ver == 0 {
				continue
			}
			done = append(done, m.put(e, rev))
		}
		for _, s := range o.mark {
			m.slots[s] = T
		}
		rv.evs = append(rv.evs, done...)
		w.noteLanded(o.op, T, done, true)
		m.clk = max(m.clk, T)
		rep.outs = append(rep.outs, out)
	}
	m.app(rv)
	return rep
}

type ERep struct {
	epoch, F, clk int64
	pos           int
}

func (w *World) fenceMember(m *Member, epoch, F int64) any {
	if m.epoch == epoch {
		if m.F < F {
			m.F = max(m.F, F)
			m.app(MRev{epoch: m.epoch, F: m.F, fence: true})
		}
	}
	return ERep{epoch: m.epoch, F: m.F, pos: len(m.log)}
}

func (w *World) setEpoch(m *Member, e int64) any {
	if m.epoch < e {
		m.epoch = e
		m.app(MRev{epoch: e, F: m.F, fence: true})
	}
	return ERep{epoch: m.epoch, F: m.F, clk: m.clk}
}

type CRep struct {
	has          bool
	epoch, clock int64
	nonce, claim int64
}

func (w *World) coRep() CRep { return CRep(w.co) }

// coordinator add: returns first stamp-1 base; handles epochs
func (co *Co) add(k int64) (T, epoch int64, ok bool) {
	w, p := co.w, co.p
	e := p.epoch
	W0 := p.W
	r, got := co.rpc("add", func() any {
		if w.co.has && w.co.epoch == e {
			w.co.clock += k
		}
		return w.coRep()
	})
	if !got {
		return
	}
	c := r.(CRep)
	if !c.has || c.epoch != e {
		co.rebE = e
		co.coordWrong(c)
		return
	}
	base := W0
	if w.f.awBack {
		base = p.W
	}
	if k > 0 && c.clock-k < base && e == p.epoch {
		w.alarms++
		if w.f.awBack {
			w.fail("false alarm: add gave %d <= W=%d (never went backwards)", c.clock-k+1, p.W)
		}
	}
	return c.clock - k, e, true
}

func (co *Co) coordWrong(c CRep) {
	p := co.p
	if c.has {
		p.epoch = max(p.epoch, c.epoch)
		return
	}
	if p.rebuild {
		co.wait(true, func() bool { return !p.rebuild })
		return
	}
	p.rebuild = true
	co.doRebuild()
	p.rebuild = false
}

func (co *Co) sync() {
	w := co.w
	co.rebE = co.p.epoch
	r, ok := co.rpc("epoch?", func() any { return w.coRep() })
	if ok {
		co.coordWrong(r.(CRep))
	}
}

func (co *Co) doRebuild() {
	w, p := co.w, co.p
	w.rebuilds++
	e := p.epoch + 1
	if w.f.awRebuildE {
		e = co.rebE + 1
	}
	var nonce int64
	if !w.f.awRebuild {
		w.nonce++
		my := w.nonce
		r, ok := co.rpc("nonce", func() any {
			if w.co.nonce == 0 {
				w.co.nonce = my
			}
			return w.coRep()
		})
		if !ok {
			return
		}
		c := r.(CRep)
		if c.has {
			p.epoch = max(p.epoch, c.epoch)
			return
		}
		nonce = c.nonce
		e = 0
		for _, m := range w.ms {
			r, ok := co.rpc("repoch", func() any { return ERep{epoch: m.epoch} })
			if !ok {
				return
			}
			e = max(e, r.(ERep).epoch)
		}
		e++
		r, ok = co.rpc("claim", func() any {
			if w.co.nonce == nonce && w.co.claim == 0 {
				w.co.claim = e
			}
			return w.coRep()
		})
		if !ok {
			return
		}
		c = r.(CRep)
		if c.nonce != nonce || c.has {
			return
		}
		e = c.claim
	}
	var B int64
again:
	B = 0
	for _, m := range w.ms {
		r, ok := co.rpc("setEpoch", func() any { return w.setEpoch(m, e) })
		if !ok {
			return
		}
		if x := r.(ERep); x.epoch > e {
			if !w.f.awRebuild {
				return // somebody rebuilt a later incarnation
			}
			e = x.epoch
			goto again
		}
	}
	for _, m := range w.ms {
		r, ok := co.rpc("readB", func() any { return ERep{F: m.F, clk: m.clk} })
		if !ok {
			return
		}
		x := r.(ERep)
		B = max(B, x.F, x.clk)
	}
	B = max(B, 1)
	r, ok := co.rpc("createClock", func() any {
		if !w.co.has && w.co.nonce == nonce {
			w.co.has, w.co.epoch, w.co.clock = true, e, B
		}
		return w.coRep()
	})
	if !ok {
		return
	}
	if c := r.(CRep); c.has {
		p.epoch = max(p.epoch, c.epoch)
	}
}

func (co *Co) fenceAll(T, e int64) {
	w := co.w
	for _, m := range w.ms {
		r, ok := co.rpc("fence", func() any { return w.fenceMember(m, e, T) })
		if ok && r.(ERep).epoch != e {
			co.sync()
			return
		}
		if ok {
			co.p.noteF(m.id, r.(ERep))
		}
	}
}

// wait until W >= T; false if the epoch changed meanwhile and stop is set
func (co *Co) closed(T int64, stop bool) bool {
	p := co.p
	e := p.epoch
	for p.W < T {
		if stop && p.epoch != e {
			return false
		}
		if !co.wait(true, func() bool { return p.W >= T || (stop && p.epoch != e) }) {
			if stop {
				co.fenceAll(T, e)
			} else {
				co.fenceAll(T, p.epoch)
			}
		}
	}
	return true
}

func (w *World) newProc() {
	p := &Proc{
		id: len(w.procs), w: w, up: true, seen: map[int64]*Seen{}, evs: map[int64][]Ev{}, need: map[int64]int{}, got: map[int64]int{},
		pos: make([]int, w.nM), sEpoch: make([]int64, w.nM), sF: make([]int64, w.nM), slow: make([]int, w.nM), queue: make([][]*Pend, w.nM), busy: map[int]bool{}, epoch: 1, pendF: make([][]ERep, w.nM),
	}
	for i := range p.pos {
		p.pos[i] = -1
	}
	w.procs = append(w.procs, p)
	w.spawn(p, false, func(co *Co) { co.start() })
	if w.xw > 0 {
		w.spawn(p, false, func(co *Co) { co.keeper() })
	}
	for mi := range w.ms {
		for range 2 {
			w.spawn(p, false, func(co *Co) { co.batcher(mi) })
		}
	}
	for range 1 + w.rng.Intn(3) {
		n := 1 + w.rng.Intn(8*sizeF)
		w.spawn(p, true, func(co *Co) { co.runClient(n) })
	}
}

func (co *Co) start() {
	w, p := co.w, co.p
	for _, m := range w.ms {
		for {
			r, ok := co.rpc("open", func() any { return len(m.log) })
			if ok {
				p.pos[m.id] = r.(int)
				break
			}
		}
	}
	for {
		C, e, ok := co.add(0)
		if !ok {
			continue
		}
		good := true
		for _, m := range w.ms {
			r, ok := co.rpc("startfence", func() any { return w.fenceMember(m, e, C) })
			good = good && ok && r.(ERep).epoch == e
			if good {
				p.noteF(m.id, r.(ERep))
			}
		}
		if !good {
			continue
		}
		for !co.wait(true, func() bool {
			for _, f := range p.sF {
				if f < C {
					return false
				}
			}
			return true
		}) {
			if w.f.awFenceStart {
				continue
			}
			co.fenceAll(C, e)
		}
		if !w.f.awStartDec && !co.startDecisions(C) {
			continue
		}
		p.C0, p.W = C, C
		p.ready = true
		p.advance()
		w.log("p%d ready C=%d", p.id, C)
		return
	}
}

func (co *Co) batcher(mi int) {
	w, p := co.w, co.p
	m := w.ms[mi]
	for {
		var b []*Pend
		pick := func() bool {
			b = b[:0]
			used := map[int]bool{}
			q := p.queue[mi]
			var rest []*Pend
			for _, x := range q {
				clash := len(b) >= 3 || (len(b) > 0 && (x.op.excl || b[0].op.excl))
				for _, s := range x.slots {
					clash = clash || used[s] || p.busy[s]
				}
				if clash {
					rest = append(rest, x)
					for _, s := range x.slots { // keep order per slot
						used[s] = true
					}
				} else {
					b = append(b, x)
					for _, s := range x.slots {
						used[s] = true
					}
				}
			}
			if len(b) > 0 {
				p.queue[mi] = rest
				for _, x := range b {
					for _, s := range x.slots {
						p.busy[s] = true
					}
				}
			}
			return len(b) > 0
		}
		co.wait(false, pick)
		for _, x := range b {
			x.out = Out{st: 4}
		}
		T, e, ok := co.add(int64(len(b)))
		if ok {
			var ops []*MOp
			var sent []*Pend
			for i, x := range b {
				if o := x.build(T + 1 + int64(i)); o != nil {
					ops = append(ops, o)
					sent = append(sent, x)
					x.out = Out{st: 3, T: o.T, epoch: e}
				}
			}
			if len(ops) > 0 {
				d := ""
				if w.tr {
					d = batchDesc(p, mi, ops)
				}
				r, ok := co.rpc(d, func() any { return w.batch(m, e, ops) })
				if ok {
					rep := r.(BRep)
					if rep.wrong {
						for _, x := range sent {
							x.out.st = 2
						}
						co.sync()
					} else {
						for i, x := range sent {
							x.out = rep.outs[i]
						}
					}
				}
			}
		}
		for _, x := range b {
			x.done = true
			for _, s := range x.slots {
				delete(p.busy, s)
			}
		}
	}
}

// settle an unknown outcome
func (co *Co) settle(mi int, T, e int64) (happened bool) {
	w, p := co.w, co.p
	if w.f.awSettle {
		co.closed(T, false)
		s := p.seen[T]
		return s != nil && s.landed
	}
	for {
		if s := p.seen[T]; s != nil && s.epoch == e && s.m == mi {
			return s.landed || w.f.awRefused
		}
		if p.sEpoch[mi] > e || p.sF[mi] >= T {
			return false
		}
		if !co.wait(true, func() bool {
			s := p.seen[T]
			return s != nil && s.epoch == e && s.m == mi || p.sEpoch[mi] > e || p.sF[mi] >= T
		}) {
			if w.f.awRead {
				e2 := p.epoch
				co.fenceAll(T, e2)
			} else {
				co.fenceAll(T, e)
			}
		}
	}
}

func (co *Co) linRead() (W int64) {
	p := co.p
	for {
		C, _, ok := co.add(0)
		if !ok {
			continue
		}
		if co.w.f.hdrC {
			return C
		}
		if co.closed(C, !co.w.f.awRead) {
			return p.W
		}
	}
}

func uniq(a []int) []int {
	sort.Ints(a)
	var o []int
	for i, x := range a {
		if i == 0 || x != a[i-1] {
			o = append(o, x)
		}
	}
	return o
}

func (op *Op) keys() (ks []int) {
	for _, c := range op.cmps {
		ks = append(ks, c.key)
	}
	for _, l := range [][]Act{op.then, op.els} {
		for _, a := range l {
			if a.put {
				ks = append(ks, a.key)
			} else {
				ks = append(ks, a.keys...)
			}
		}
	}
	return uniq(ks)
}

func (co *Co) finish(op *Op, rev int64, ans []int64) {
	op.end, op.rev, op.ans, op.done = co.w.step, rev, ans, true
	co.w.left--
	co.w.log("p%d op%d DONE rev=%d ans=%v", co.p.id, op.id, rev, ans)
}

func (co *Co) readOp(op *Op) {
	p := co.p
	w := co.w
	switch op.read {
	case 1:
		W := co.linRead()
		st := p.snapshot(min(W, p.W))
		co.finish(op, W, enc(nil, &st, w.nK))
	case 2:
		st := p.snapshot(p.W)
		co.finish(op, p.W, enc(nil, &st, w.nK))
	case 3:
		R := p.W - w.rng.Int63n(min(p.W, 20))
		st := p.snapshot(R)
		op.R = R
		co.finish(op, R, enc(nil, &st, w.nK))
	case 4:
		mi, s := w.memOf(op.rkey), w.slotOf(op.rkey)
		for {
			pd := &Pend{op: op, slots: []int{s}, m: mi}
			pd.build = func(T int64) *MOp { return &MOp{op: op, T: T, slots: pd.slots, mark: pd.slots} }
			p.queue[mi] = append(p.queue[mi], pd)
			co.wait(false, func() bool { return pd.done })
			if pd.out.st == 0 {
				co.finish(op, pd.out.T, pd.out.prevs)
				return
			}
			if w.xw > 0 && pd.out.st == 1 {
				co.helpLocks(mi, pd.slots)
			}
		}
	}
}

func (co *Co) writeOp(op *Op) {
	w, p := co.w, co.p
	ks := op.keys()
	mi := w.memOf(ks[0])
	var slots []int
	for _, k := range ks {
		slots = append(slots, w.slotOf(k))
	}
	slots = uniq(slots)
	blind := len(op.cmps) == 0 && !op.excl && op.then[0].put && len(op.then) == 1
	fresh := w.coin(0.4)
	rebuildPin := w.coin(0.3)
	for {
		var st State
		if fresh {
			r, ok := co.rpc("read", func() any { return w.ms[mi].keys })
			if !ok {
				continue
			}
			st = r.(State)
		} else {
			st = p.cached(mi)
		}
		if !blind {
			s2 := st
			if evs, _ := eval(&s2, op, 1); len(evs) == 0 {
				W := co.linRead()
				s := p.snapshot(min(W, p.W))
				s2 = s
				if evs, ans := eval(&s2, op, 1); len(evs) == 0 {
					if op.pre {
						ans = enc(ans, &s, w.nK)
					}
					if op.post {
						ans = enc(ans, &s, w.nK)
					}
					co.finish(op, W, ans)
					return
				}
				fresh = true
				continue
			}
		}
		pd := &Pend{op: op, slots: slots, m: mi}
		pd.build = func(T int64) *MOp {
			o := &MOp{op: op, T: T, slots: slots, excl: op.excl}
			if op.excl {
				return o
			}
			if rebuildPin {
				st = p.cached(mi)
			}
			s2 := st
			ok := succ(&st, op)
			o.evs, _ = eval(&s2, op, T)
			written := map[int]bool{}
			acts := op.els
			if ok {
				acts = op.then
			}
			touched := map[int]bool{}
			for _, a := range acts {
				if a.put {
					written[a.key] = true
					touched[a.key] = true
				} else {
					for _, k := range a.keys {
						touched[k] = true
						if !w.f.noDelMark {
							o.mark = append(o.mark, w.slotOf(k))
						}
					}
				}
			}
			for _, c := range op.cmps {
				touched[c.key] = true
				if !written[c.key] && (ok || !w.f.noCmpMark) {
					o.mark = append(o.mark, w.slotOf(c.key))
				}
			}
			for _, k := range ks {
				if !touched[k] {
					continue
				}
				if st[k].stamp >= T && !w.f.awPin {
					return nil // what was read is newer than the stamp: take another stamp
				}
				if blind && st[k].ver > 0 {
					o.pins = append(o.pins, Pin{k, st[k].ncreate, true})
				} else if st[k].ver == 0 {
					o.pins = append(o.pins, Pin{k, 0, true})
				} else {
					o.pins = append(o.pins, Pin{k, st[k].nmod, false})
				}
			}
			return o
		}
		p.queue[mi] = append(p.queue[mi], pd)
		co.wait(false, func() bool { return pd.done })
		out := pd.out
		switch out.st {
		case 1:
			fresh = true
			rebuildPin = false
			if w.xw > 0 {
				if op.excl {
					co.helpLocks(mi, nil)
				} else {
					co.helpLocks(mi, slots)
				}
			}
			continue
		case 2, 4:
			continue
		case 3:
			if !co.settle(mi, out.T, out.epoch) {
				fresh = true
				continue
			}
		}
		co.answer(op, out)
		return
	}
}

func (co *Co) answer(op *Op, out Out) {
	p, w := co.p, co.w
	ans := out.prevs
	if out.st == 3 {
		co.closed(out.T, false)
		s := p.snapshot(out.T - 1)
		_, ans = eval(&s, op, out.T)
	}
	if op.pre || op.post {
		co.closed(out.T, false)
		if op.pre {
			s := p.snapshot(out.T - 1)
			ans = enc(ans, &s, w.nK)
		}
		if op.post {
			s := p.snapshot(out.T)
			ans = enc(ans, &s, w.nK)
		}
	}
	co.finish(op, out.T, ans)
}

func (co *Co) runClient(n int) {
	w, p := co.w, co.p
	co.wait(false, func() bool { return p.ready })
	for range n {
		op := w.genOp(p)
		op.start = w.step
		if w.tr {
			w.log("p%d op%d START %s", p.id, op.id, opDesc(op))
		}
		switch {
		case op.read > 0:
			co.readOp(op)
		case op.cross:
			co.crossOp(op)
		default:
			co.writeOp(op)
		}
	}
}

func encKey(k *KV) []int64 {
	if k.ver == 0 {
		return []int64{0}
	}
	return []int64{int64(k.val), k.stamp, k.create, int64(k.ver)}
}

// the reply of a fence raise says: F held at member revision pos. True for this process once its stream is there.
func (p *Proc) noteF(mi int, r ERep) {
	if p.w.f.awFenceStart {
		return
	}
	if p.pos[mi] >= r.pos {
		p.sF[mi] = max(p.sF[mi], r.F)
		p.advance()
		return
	}
	if r.F > p.sF[mi] {
		p.pendF[mi] = append(p.pendF[mi], r)
	}
}
