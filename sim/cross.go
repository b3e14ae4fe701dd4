package main

import "slices"

// Transactions across members as the library builds them: an id without a stamp, the primary locked first, decide together
// with the primary's part, no abort records.

const inf = int64(1) << 61

// LockV is a lock as a member's stream shows it.
type LockV struct {
	id   int64
	prim int
}

// Share is what a transaction takes of one member.
type Share struct {
	mi    int
	slots []int
	whole bool
}

type PRep struct {
	st     int // 0 ok, 1 refused, 2 epoch, 3 lost
	keys   State
	clocks []int64
	slotsL bool // refused: slots are locked, the member is not
	pos    int
}

type Held struct {
	dec   *Decision
	whole bool
	slots []int
}

func (h Held) free() bool { return !h.whole && len(h.slots) == 0 }

func (m *Member) anyLocked() bool {
	return slices.ContainsFunc(m.lock[:], func(l int64) bool { return l != 0 })
}

func (m *Member) locks() (ls []LockV) {
	if m.whole != 0 {
		ls = append(ls, LockV{m.whole, m.wholePrim})
	}
	for s, l := range m.lock {
		if l != 0 && !slices.Contains(ls, LockV{l, m.lockPrim[s]}) {
			ls = append(ls, LockV{l, m.lockPrim[s]})
		}
	}
	return
}

// app appends a revision; every one shows the locks behind it.
func (m *Member) app(rv MRev) {
	rv.locks, rv.lockBy, rv.wholeBy = m.locks(), m.lock, m.whole
	m.log = append(m.log, rv)
}

func (m *Member) held(id int64, sh Share) bool {
	if sh.whole {
		return m.whole == id
	}
	for _, s := range sh.slots {
		if m.lock[s] != id {
			return false
		}
	}
	return true
}

func (m *Member) heldAny(id int64) (h Held) {
	h.whole = m.whole == id
	for s, l := range m.lock {
		if l == id {
			h.slots = append(h.slots, s)
		}
	}
	h.dec = m.txn[id]
	return
}

func (w *World) prepare(m *Member, epoch, id int64, prim int, sh Share) any {
	if m.epoch != epoch {
		return PRep{st: 2}
	}
	locked := m.anyLocked()
	if m.whole != 0 || sh.whole && locked {
		return PRep{st: 1, slotsL: m.whole == 0, pos: len(m.log)}
	}
	r := PRep{keys: m.keys}
	for _, s := range sh.slots {
		if m.lock[s] != 0 {
			return PRep{st: 1, pos: len(m.log)}
		}
	}
	if sh.whole {
		m.whole, m.wholePrim = id, prim
	}
	for _, s := range sh.slots {
		r.clocks = append(r.clocks, m.slots[s])
		m.lock[s], m.lockPrim[s], m.slots[s] = id, prim, inf
	}
	m.app(MRev{epoch: m.epoch, F: m.F})
	return r
}

// claim locks a member of which slots are locked; claimRead reads it once they are free.
func (w *World) claim(m *Member, epoch, id int64, prim int) any {
	if m.epoch != epoch {
		return PRep{st: 2}
	}
	if m.whole != 0 {
		return PRep{st: 1}
	}
	m.whole, m.wholePrim = id, prim
	m.app(MRev{epoch: m.epoch, F: m.F})
	return PRep{}
}

func (w *World) claimRead(m *Member, epoch, id int64) any {
	switch {
	case m.epoch != epoch:
		return PRep{st: 2}
	case m.whole != id:
		return PRep{st: 3}
	case m.anyLocked() && !w.f.xClaimRead:
		return PRep{st: 1}
	}
	return PRep{keys: m.keys}
}

// takePart lands part i: events, locks, mark.
func (w *World) takePart(m *Member, d *Decision, i int, first bool) {
	rev := len(m.log) + 1
	rv := MRev{epoch: m.epoch, F: m.F, marks: []Mark{{d.T, true}}, part: &Part{d.T, i, d.n}}
	for _, e := range d.parts[i].evs {
		rv.evs = append(rv.evs, m.put(e, rev))
	}
	sh := d.shares[i]
	if sh.whole {
		m.whole = 0
		if m.epoch == d.epoch && m.F < d.T && !w.f.xWholeFence {
			m.F = d.T
			rv.F, rv.fence = d.T, true
		}
	}
	for _, s := range sh.slots {
		m.lock[s], m.slots[s] = 0, d.T
	}
	if !w.f.awDecClk && first || !w.f.xPartClk && !first {
		m.clk = max(m.clk, d.T)
	}
	w.noteLanded(d.op, d.T, rv.evs, first)
	if first {
		for _, p := range w.procs {
			if p.ready && d.T <= p.W && p.up {
				w.fail("decision %d of op %d lands, p%d closed W=%d", d.T, d.op.id, p.id, p.W)
			}
		}
	}
	m.app(rv)
}

// decide lands the primary's part and the record that makes the others sure.
func (w *World) decide(m *Member, epoch int64, d *Decision) any {
	if m.epoch != epoch {
		return PRep{st: 2}
	}
	held := m.held(d.id, d.shares[0])
	if m.F >= d.T || !held && !w.f.awDecide {
		if !w.f.awClkRef {
			m.clk = max(m.clk, d.T)
		}
		m.app(MRev{epoch: m.epoch, F: m.F, marks: []Mark{{d.T, false}}})
		if held {
			return PRep{st: 1}
		}
		return PRep{st: 3}
	}
	if d.n > 1 {
		m.txn[d.id] = d
	}
	w.takePart(m, d, 0, true)
	return PRep{}
}

func (w *World) apply(m *Member, d *Decision, i int) any {
	if m.held(d.id, d.shares[i]) {
		w.takePart(m, d, i, false)
	}
	return PRep{}
}

// unlock is the writer's own: it gives back what was found.
func (w *World) unlock(m *Member, id int64, sh Share, clocks []int64) any {
	if !m.held(id, sh) {
		return PRep{}
	}
	rv := MRev{epoch: m.epoch, F: m.F}
	if sh.whole {
		m.whole = 0
	}
	for i, s := range sh.slots {
		c := clocks[i]
		if w.f.xNoRestore {
			c = 0
		}
		m.lock[s], m.slots[s] = 0, c
		if c > 0 {
			rv.marks = append(rv.marks, Mark{c, true})
		}
	}
	m.app(rv)
	return PRep{}
}

// abort is anybody's: slots get a stamp of the taker's.
func (w *World) abort(m *Member, id int64, whole bool, slots []int, epoch, stamp int64) any {
	if !m.held(id, Share{slots: slots, whole: whole}) || m.epoch != epoch && !w.f.xAbortEpoch || m.txn[id] != nil && !w.f.xNoDecGuard {
		return PRep{st: 1}
	}
	rv := MRev{epoch: m.epoch, F: m.F}
	if whole {
		m.whole = 0
	} else {
		for _, s := range slots {
			m.lock[s], m.slots[s] = 0, stamp
		}
		rv.marks = []Mark{{stamp, true}}
		if !w.f.xAbortClk {
			m.clk = max(m.clk, stamp)
		}
	}
	m.app(rv)
	w.aborts++
	return PRep{}
}

type look struct {
	Held
	e   int64
	pos int
}

// look reads what a transaction has on a member: the locks from this process's stream, once that is where the member is now,
// and then the decision from the member.
func (co *Co) look(m *Member, id int64) (l look, ok bool) {
	p := co.p
	read := func() bool {
		r, ok := co.rpc("held", func() any { return look{Held{dec: m.txn[id]}, m.epoch, len(m.log)} })
		if ok {
			l = r.(look)
		}
		return ok
	}
	if !read() {
		return l, false
	}
	if !co.w.f.xStaleView {
		co.wait(false, func() bool { return p.pos[m.id] >= l.pos })
	}
	whole, slots := p.shown(m, id)
	ok = co.w.f.xDecFirst || read()
	l.whole, l.slots = whole, slots
	return l, ok
}

// shown are the locks of a transaction where the process's stream stands.
func (p *Proc) shown(m *Member, id int64) (whole bool, slots []int) {
	if p.pos[m.id] <= 0 {
		return
	}
	rv := &m.log[p.pos[m.id]-1]
	for s, l := range rv.lockBy {
		if l == id {
			slots = append(slots, s)
		}
	}
	return rv.wholeBy == id, slots
}

// takeLocks takes some of what a transaction has on a member. True: nothing is left there.
func (co *Co) takeLocks(m *Member, id int64, h look) (all bool) {
	w, p := co.w, co.p
	if h.whole {
		r, ok := co.rpc("abortwhole", func() any { return w.abort(m, id, true, nil, h.e, 0) })
		return ok && r.(PRep).st == 0
	}
	all = true
	if len(h.slots) > 1 && w.coin(0.3) { // more slots than one request takes
		h.slots, all = h.slots[:1], false
	}
	var T, e int64
	if w.f.xStale {
		T, e = p.W, h.e
	} else {
		t, ep, ok := co.add(1)
		if !ok {
			return false
		}
		T, e = t+1, ep
	}
	r, ok := co.rpc("abort", func() any { return w.abort(m, id, false, h.slots, e, T) })
	if ok && r.(PRep).st != 0 {
		co.sync()
	}
	return all && ok && r.(PRep).st == 0
}

// resolve finishes a transaction of somebody who may have gone.
func (co *Co) resolve(id int64, prim int) {
	w := co.w
	pm := w.ms[prim]
	others := func() {
		for _, m := range w.ms {
			for m != pm {
				if w, ss := co.p.shown(m, id); !w && ss == nil {
					break // what the stream has not shown yet is seen later
				}
				h, ok := co.look(m, id)
				if !ok {
					return
				}
				if h.free() || co.takeLocks(m, id, h) {
					break
				}
			}
		}
	}
	if w.f.xHelpOrder && pm.txn[id] == nil {
		others()
	}
	for {
		h, ok := co.look(pm, id)
		if !ok {
			return
		}
		if h.dec != nil && !w.f.xNoDecLook {
			co.rollForward(h.dec, prim)
			return
		}
		if h.free() || co.takeLocks(pm, id, h) {
			break
		}
	}
	others()
}

func (co *Co) rollForward(d *Decision, prim int) bool {
	w := co.w
	ok := true
	is := w.rng.Perm(d.n - 1)
	for _, i := range is {
		_, g := co.rpc("apply", func() any { return w.apply(w.ms[d.shares[i+1].mi], d, i+1) })
		ok = ok && g
	}
	if ok || w.f.xDelEarly {
		if co.w.coin(0.5) { // swept later
			co.wait(true, func() bool { return false })
		}
		co.rpc("deldec", func() any { delete(w.ms[prim].txn, d.id); return PRep{} })
	}
	return ok
}

// helpLocks is some process's keeper, at once: it finishes what is in the way.
func (co *Co) helpLocks(mi int, slots []int) {
	w := co.w
	m := w.ms[mi]
	r, ok := co.rpc("locks", func() any {
		ls := []LockV{}
		for _, s := range slots {
			if m.lock[s] != 0 {
				ls = append(ls, LockV{m.lock[s], m.lockPrim[s]})
			}
		}
		if slots == nil || m.whole != 0 {
			ls = m.locks()
		}
		return ls
	})
	if !ok {
		return
	}
	if ls := r.([]LockV); len(ls) > 0 && w.coin(0.15) {
		l := ls[w.rng.Intn(len(ls))]
		co.resolve(l.id, l.prim)
	}
}

// keeper finishes what the process's own streams show, which may be long over.
func (co *Co) keeper() {
	w, p := co.w, co.p
	co.wait(false, func() bool { return p.ready })
	for {
		co.wait(true, func() bool { return false })
		mi := w.rng.Intn(w.nM)
		if p.pos[mi] == 0 || len(w.ms[mi].log) == 0 {
			continue
		}
		ls := w.ms[mi].log[p.pos[mi]-1].locks
		if len(ls) == 0 || w.coin(0.4) {
			continue
		}
		l := ls[w.rng.Intn(len(ls))]
		co.resolve(l.id, l.prim)
	}
}

func (co *Co) startDecisions(C int64) bool {
	w, p := co.w, co.p
	for _, m := range w.ms {
		r, ok := co.rpc("decs", func() any {
			var ds []*Decision
			for _, d := range m.txn {
				if d.T <= C {
					ds = append(ds, d)
				}
			}
			slices.SortFunc(ds, func(a, b *Decision) int { return int(a.T - b.T) }) // map order must not leak
			return ds
		})
		if !ok {
			return false
		}
		for _, d := range r.([]*Decision) {
			if !co.rollForward(d, m.id) {
				return false
			}
		}
	}
	for _, m := range w.ms {
		r, ok := co.rpc("pos", func() any { return len(m.log) })
		if !ok {
			return false
		}
		co.wait(false, func() bool { return p.pos[m.id] >= r.(int) })
	}
	return true
}

func (w *World) shares(op *Op) (shs []Share) {
	ks := op.keys()
	ranged := slices.ContainsFunc(append(slices.Clone(op.then), op.els...), func(a Act) bool { return len(a.keys) > 1 })
	for mi := range w.nM {
		sh := Share{mi: mi}
		for _, k := range ks {
			if w.memOf(k) == mi {
				sh.slots = append(sh.slots, w.slotOf(k))
			}
		}
		if sh.slots = uniq(sh.slots); sh.slots == nil {
			continue
		}
		if ranged {
			for _, a := range append(slices.Clone(op.then), op.els...) {
				sh.whole = sh.whole || len(a.keys) > 1 && slices.ContainsFunc(a.keys, func(k int) bool { return w.memOf(k) == mi })
			}
		}
		if sh.whole {
			sh.slots = nil
		}
		shs = append(shs, sh)
	}
	return
}

// attempt is one try at locking.
type attempt struct {
	id     int64
	e      int64
	prim   int
	shs    []Share
	locked []bool
	clocks [][]int64
	st     State
}

// lockShare: 0 locked, 1 start over, 2 refused.
func (co *Co) lockShare(a *attempt, i int) int {
	w, sh := co.w, a.shs[i]
	m := w.ms[sh.mi]
	ask := func() (PRep, bool) {
		r, ok := co.rpc("prepare", func() any { return w.prepare(m, a.e, a.id, a.prim, sh) })
		if !ok && w.f.awLatePrep { // once more, with the same id
			r, ok = co.rpc("prepare", func() any { return w.prepare(m, a.e, a.id, a.prim, sh) })
		}
		if !ok {
			return PRep{st: 4}, false
		}
		return r.(PRep), true
	}
	r, ok := ask()
	if ok && r.st == 1 && sh.whole && r.slotsL {
		x, got := co.rpc("claim", func() any { return w.claim(m, a.e, a.id, a.prim) })
		if !got {
			return 1
		}
		for r = x.(PRep); r.st == 0; {
			if !co.wait(true, func() bool { return !m.anyLocked() || w.f.xClaimRead }) {
				co.helpLocks(sh.mi, nil)
			}
			x, got = co.rpc("claimread", func() any { return w.claimRead(m, a.e, a.id) })
			if !got {
				return 1
			}
			if y := x.(PRep); y.st != 1 {
				r = y
				break
			}
		}
		if r.st == 3 {
			return 1
		}
	}
	switch {
	case !ok || r.st == 4:
		return 1
	case r.st == 2:
		co.sync()
		return 1
	case r.st == 1:
		return 2
	}
	a.locked[i], a.clocks[i] = true, r.clocks
	for k := range w.nK {
		if w.memOf(k) == sh.mi {
			a.st[k] = r.keys[k]
		}
	}
	return 0
}

func (co *Co) giveBack(a *attempt) {
	w := co.w
	for _, i := range w.rng.Perm(len(a.shs)) {
		if a.locked[i] {
			co.rpc("unlock", func() any { return w.unlock(w.ms[a.shs[i].mi], a.id, a.shs[i], a.clocks[i]) })
			a.locked[i] = false
		}
	}
}

func (co *Co) crossOp(op *Op) {
	w, p := co.w, co.p
	shs := w.shares(op)
	if len(shs) == 1 && w.coin(0.5) && !shs[0].whole {
		op.cross = false
		co.writeOp(op)
		return
	}
retry:
	for {
		w.nid++
		a := &attempt{id: w.nid, e: p.epoch, prim: shs[0].mi, shs: shs, locked: make([]bool, len(shs)), clocks: make([][]int64, len(shs))}
		if w.f.awID { // stamps of different epochs may be the same
			t, _, ok := co.add(1)
			if !ok {
				continue
			}
			a.id = t + 1
		}
		order := []int{0}
		ranged := slices.ContainsFunc(shs, func(s Share) bool { return s.whole })
		for _, i := range w.rng.Perm(len(shs) - 1) {
			order = append(order, i+1)
		}
		if ranged {
			slices.Sort(order)
		}
		if w.f.xOthers {
			order = append(order[1:], 0)
		}
		for _, i := range order {
			switch co.lockShare(a, i) {
			case 1:
				co.giveBack(a)
				continue retry
			case 2:
				co.giveBack(a)
				co.helpLocks(shs[i].mi, shs[i].slots)
				continue retry
			}
		}
		s2 := a.st
		if evs, _ := eval(&s2, op, 1); len(evs) == 0 {
			co.giveBack(a)
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
			continue
		}
		for {
			t, e, ok := co.add(1)
			if !ok {
				continue
			}
			T := t + 1
			d := &Decision{id: a.id, T: T, epoch: e, n: len(shs), shares: shs, op: op}
			s2 := a.st
			evs, ans := eval(&s2, op, T)
			for _, sh := range shs {
				o := &MOp{}
				for _, ev := range evs {
					if w.memOf(ev.key) == sh.mi {
						o.evs = append(o.evs, ev)
					}
				}
				d.parts = append(d.parts, o)
			}
			r, ok := co.rpc("decide", func() any { return w.decide(w.ms[a.prim], e, d) })
			if ok {
				switch r.(PRep).st {
				case 1:
					continue
				case 2:
					co.sync()
					continue
				case 3:
					co.giveBack(a)
					continue retry
				}
			} else if w.f.awDecRec { // guess from the primary's records
				for {
					if r, ok = co.rpc("rec", func() any { return w.ms[a.prim].heldAny(a.id) }); ok {
						break
					}
				}
				if h := r.(Held); h.dec == nil {
					co.giveBack(a)
					continue retry
				}
			} else if !co.settle(a.prim, T, e) {
				continue // refused or dead; if the locks are lost, the next decide says so
			}
			if d.n > 1 {
				w.spawn(p, false, func(co *Co) {
					for !co.rollForward(d, a.prim) {
					}
				})
			}
			co.answer(op, Out{st: 0, T: T, prevs: ans})
			return
		}
	}
}

// pending: locks that a keeper has to see to. A decision of which all parts are in may stay: the next start removes it.
func (w *World) pending() bool {
	for _, m := range w.ms {
		if len(m.locks()) > 0 {
			return true
		}
	}
	return false
}
