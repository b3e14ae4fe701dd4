package main

import (
	"slices"
	"sort"
)

// genOp makes a random operation for a client of p.
func (w *World) genOp(p *Process) *Op {
	op := &Op{id: len(w.ops)}
	w.ops = append(w.ops, op)
	switch x := w.rng.Intn(100); {
	case x < 12:
		op.read = linearizableRead
	case x < 20:
		op.read = serializableRead
	case x < 26:
		op.read = pastRead
	case x < 31:
		op.read = fencedRead
		op.rkey = w.rng.Intn(w.keys)
	default:
		w.genWrite(p, op)
	}
	return op
}

func (w *World) genWrite(p *Process, op *Op) {
	r := w.rng
	ks := w.keysOf(r.Intn(len(w.members)))
	if w.cross > 0 && r.Intn(100) < w.cross {
		op.cross = true
		ks = ks[:0]
		for k := range w.keys {
			ks = append(ks, k)
		}
	}
	r.Shuffle(len(ks), func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	op.pre = r.Intn(6) == 0
	op.post = r.Intn(6) == 0
	switch x := r.Intn(10); {
	case op.cross:
		w.genCross(p, op, ks)
	case x < 3:
		op.then = []Action{w.genPut(ks[0])}
	case x < 5:
		op.then = []Action{{keys: []int{ks[0]}}}
	case x < 6:
		w.genExclusive(p, op, ks)
	default:
		w.genGuarded(p, op, ks)
	}
}

func (w *World) keysOf(member int) (ks []int) {
	for k := range w.keys {
		if w.memberOf(k) == member {
			ks = append(ks, k)
		}
	}
	return ks
}

func (w *World) genPut(key int) Action { return Action{put: true, key: key, val: w.rng.Intn(3)} }

func (w *World) genAction(key int) Action {
	if w.rng.Intn(3) > 0 {
		return w.genPut(key)
	}
	return Action{keys: []int{key}}
}

// genDelete deletes some keys, ascending.
func (w *World) genDelete(ks []int) Action {
	ks = slices.Clone(ks)
	sort.Ints(ks)
	return Action{keys: ks}
}

// genCompare mostly compares with what p knows.
func (w *World) genCompare(p *Process, key int) Compare {
	c := Compare{key: key, field: w.rng.Intn(numFields)}
	c.want = p.cache[key].kv.field(c.field)
	if w.rng.Intn(5) == 0 {
		c.want = 0
	}
	return c
}

func (w *World) genCross(p *Process, op *Op, ks []int) {
	r := w.rng
	if r.Intn(2) == 0 {
		op.cmps = append(op.cmps, w.genCompare(p, ks[0]))
	}
	op.then = append(op.then, w.genAction(ks[0]), w.genAction(ks[1]))
	if r.Intn(2) == 0 {
		op.then[0] = w.genAction(ks[2])
	}
	if r.Intn(2) == 0 && len(op.cmps) > 0 {
		op.els = append(op.els, w.genAction(ks[2]))
	}
	if r.Intn(5) == 0 { // a range, which takes whole members
		op.then = []Action{w.genDelete(ks[:2+r.Intn(len(ks)-1)])}
	}
}

func (w *World) genExclusive(p *Process, op *Op, ks []int) {
	r := w.rng
	op.excl = true
	n := 1 + r.Intn(len(ks))
	if r.Intn(2) == 0 {
		op.cmps = append(op.cmps, w.genCompare(p, ks[len(ks)-1]))
	}
	op.then = []Action{w.genDelete(ks[:n])}
	if r.Intn(2) == 0 && len(op.cmps) > 0 {
		op.els = []Action{w.genPut(ks[0])}
		if r.Intn(3) == 0 {
			op.cmps[0].want = -1 // never
		}
	}
}

func (w *World) genGuarded(p *Process, op *Op, ks []int) {
	r := w.rng
	op.cmps = append(op.cmps, w.genCompare(p, ks[0]))
	if r.Intn(3) == 0 {
		op.cmps = append(op.cmps, w.genCompare(p, ks[1]))
	}
	op.then = append(op.then, w.genAction(ks[r.Intn(len(ks))]))
	if r.Intn(2) == 0 {
		op.els = append(op.els, w.genAction(ks[r.Intn(len(ks))]))
	}
}
