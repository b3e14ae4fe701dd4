package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"sort"
	"strings"
	"time"
)

var sizeF = 1

func opDesc(o *Op) string {
	if o.read > 0 {
		return fmt.Sprint("read", o.read)
	}
	return fmt.Sprintf("cmps=%v then=%v else=%v pre=%v post=%v excl=%v cross=%v", o.cmps, o.then, o.els, o.pre, o.post, o.excl, o.cross)
}

func batchDesc(p *Proc, mi int, ops []*MOp) string {
	var s strings.Builder
	fmt.Fprintf(&s, "batch p%d->M%d", p.id, mi)
	for _, o := range ops {
		fmt.Fprintf(&s, " [op%d T=%d pins=%v mark=%v]", o.op.id, o.T, o.pins, o.mark)
	}
	return s.String()
}

func (w *World) genOp(p *Proc) *Op {
	r := w.rng
	op := &Op{id: len(w.ops), proc: p.id}
	w.ops = append(w.ops, op)
	val := func() int { w.val++; return r.Intn(3) }
	if x := r.Intn(100); x < 12 {
		op.read = 1
		return op
	} else if x < 20 {
		op.read = 2
		return op
	} else if x < 26 {
		op.read = 3
		return op
	} else if x < 31 {
		op.read = 4
		op.rkey = r.Intn(w.nK)
		return op
	}
	mi := r.Intn(w.nM)
	var ks []int
	for k := 0; k < w.nK; k++ {
		if w.memOf(k) == mi {
			ks = append(ks, k)
		}
	}
	if w.xw > 0 && r.Intn(100) < w.xw {
		op.cross = true
		ks = ks[:0]
		for k := 0; k < w.nK; k++ {
			ks = append(ks, k)
		}
	}
	r.Shuffle(len(ks), func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	act := func(k int) Act {
		if r.Intn(3) > 0 {
			return Act{put: true, key: k, val: val()}
		}
		return Act{keys: []int{k}}
	}
	cmp := func(k int) Cmp {
		st := p.cached(w.memOf(k))
		c := Cmp{key: k, field: r.Intn(4)}
		c.want = field(&st[k], c.field)
		if r.Intn(5) == 0 {
			c.want = 0
		}
		return c
	}
	op.pre = r.Intn(6) == 0
	op.post = r.Intn(6) == 0
	switch x := r.Intn(10); {
	case op.cross:
		if r.Intn(2) == 0 {
			op.cmps = append(op.cmps, cmp(ks[0]))
		}
		op.then = append(op.then, act(ks[0]), act(ks[1]))
		if r.Intn(2) == 0 {
			op.then[0] = act(ks[2])
		}
		if r.Intn(2) == 0 && len(op.cmps) > 0 {
			op.els = append(op.els, act(ks[2]))
		}
		if r.Intn(5) == 0 { // a range, which takes whole members
			kk := slices.Clone(ks[:2+r.Intn(len(ks)-1)])
			sort.Ints(kk)
			op.then = []Act{{keys: kk}}
		}
	case x < 3:
		op.then = []Act{{put: true, key: ks[0], val: val()}}
	case x < 5:
		op.then = []Act{{keys: []int{ks[0]}}}
	case x < 6:
		op.excl = true
		n := 1 + r.Intn(len(ks))
		if r.Intn(2) == 0 {
			op.cmps = append(op.cmps, cmp(ks[len(ks)-1]))
		}
		kk := slices.Clone(ks[:n])
		sort.Ints(kk)
		op.then = []Act{{keys: kk}}
		if r.Intn(2) == 0 && len(op.cmps) > 0 {
			op.els = []Act{{put: true, key: ks[0], val: val()}}
		}
	default:
		op.cmps = append(op.cmps, cmp(ks[0]))
		if r.Intn(3) == 0 {
			op.cmps = append(op.cmps, cmp(ks[1]))
		}
		op.then = append(op.then, act(ks[r.Intn(len(ks))]))
		if r.Intn(2) == 0 {
			op.els = append(op.els, act(ks[r.Intn(len(ks))]))
		}
	}
	return op
}

func sameEv(a, b Ev) bool {
	return a.T == b.T && a.key == b.key && a.del == b.del && a.kv.val == b.kv.val && a.kv.stamp == b.kv.stamp && a.kv.create == b.kv.create && a.kv.ver == b.kv.ver
}

func evSet(e []Ev) []Ev {
	e = slices.Clone(e)
	sort.SliceStable(e, func(i, j int) bool {
		if e[i].T != e[j].T {
			return e[i].T < e[j].T
		}
		return e[i].key < e[j].key
	})
	return e
}

func (w *World) check() {
	sort.Slice(w.landed, func(i, j int) bool { return w.landed[i].T < w.landed[j].T })
	var st State
	var all []Ev
	type ver struct {
		T  int64
		st State
	}
	hist := []ver{{0, st}}
	at := func(R int64) *State {
		i := sort.Search(len(hist), func(i int) bool { return hist[i].T > R })
		return &hist[i-1].st
	}
	for _, o := range w.landed {
		pre := st
		evs, ans := eval(&st, o, o.T)
		post := st
		a, b := evSet(evs), evSet(o.evs)
		if len(a) != len(b) {
			w.fail("op %d T=%d: landed events %v, replay says %v", o.id, o.T, b, a)
			return
		}
		for i := range a {
			if !sameEv(a[i], b[i]) {
				w.fail("op %d T=%d: landed event %+v, replay says %+v", o.id, o.T, b[i], a[i])
				return
			}
		}
		all = append(all, a...)
		hist = append(hist, ver{o.T, st})
		if o.done {
			if o.pre {
				ans = enc(ans, &pre, w.nK)
			}
			if o.post {
				ans = enc(ans, &post, w.nK)
			}
			if o.rev != o.T {
				w.fail("op %d answered rev %d, landed at %d", o.id, o.rev, o.T)
			}
			if !slices.Equal(ans, o.ans) {
				w.fail("op %d T=%d: answer %v, replay says %v", o.id, o.T, o.ans, ans)
				return
			}
		}
	}
	for _, o := range w.ops {
		if !o.done {
			continue
		}
		if o.read == 4 {
			if want := encKey(&at(o.rev)[o.rkey]); !slices.Equal(want, o.ans) {
				w.fail("fenced read op %d key %d at T=%d: got %v, replay says %v", o.id, o.rkey, o.rev, o.ans, want)
				return
			}
		} else if o.read > 0 {
			if want := enc(nil, at(o.rev), w.nK); !slices.Equal(want, o.ans) {
				w.fail("read op %d kind %d at R=%d: got %v, replay says %v", o.id, o.read, o.rev, o.ans, want)
				return
			}
		} else if o.landed == 0 {
			s := *at(o.rev)
			pre := s
			evs, ans := eval(&s, o, 1)
			if o.pre {
				ans = enc(ans, &pre, w.nK)
			}
			if o.post {
				ans = enc(ans, &pre, w.nK)
			}
			if len(evs) > 0 || !slices.Equal(ans, o.ans) {
				w.fail("acknowledged op %d rev %d lost (or wrong no-op answer): ans %v replay %v evs %v", o.id, o.rev, o.ans, ans, evs)
				return
			}
		}
	}
	// real time
	type e2 struct {
		t   int
		end bool
		o   *Op
	}
	var es []e2
	for _, o := range w.ops {
		es = append(es, e2{o.start, false, o})
		if o.done {
			es = append(es, e2{o.end, true, o})
		}
	}
	sort.SliceStable(es, func(i, j int) bool {
		if es[i].t != es[j].t {
			return es[i].t < es[j].t
		}
		return !es[i].end && es[j].end
	})
	var mx int64
	var who int
	for _, e := range es {
		if e.end {
			if e.o.read != 3 && e.o.rev > mx {
				mx, who = e.o.rev, e.o.id
			}
			continue
		}
		e.o.R = mx
		if e.o.landed > 0 && len(e.o.evs) > 0 && e.o.T <= mx {
			w.fail("real time: op %d T=%d started after op %d ended with rev %d", e.o.id, e.o.T, who, mx)
		}
		if e.o.landed > 0 && e.o.T <= mx {
			w.fail("real time: op %d T=%d (no event) started after op %d ended with rev %d", e.o.id, e.o.T, who, mx)
		}
		if e.o.done && (e.o.read < 2 || e.o.read == 4) && e.o.landed == 0 && e.o.rev < mx {
			w.fail("real time: read op %d rev=%d started after op %d ended with rev %d", e.o.id, e.o.rev, who, mx)
		}
	}
	for _, p := range w.procs {
		if !p.ready {
			continue
		}
		var want []Ev
		for _, e := range all {
			if e.T > p.C0 && e.T <= p.W {
				want = append(want, e)
			}
		}
		// within a stamp order is free
		rel := evSet(p.released)
		if len(rel) != len(want) {
			w.fail("p%d released %d events, replay has %d in (%d,%d]", p.id, len(rel), len(want), p.C0, p.W)
			return
		}
		for i := range want {
			if !sameEv(want[i], rel[i]) || p.released[i].T != want[i].T {
				w.fail("p%d released %+v, want %+v", p.id, rel[i], want[i])
				return
			}
		}
	}
}

func run(seed int64, f Flags, xw int, loss float64, tr bool) (w *World) {
	r := rand.New(rand.NewSource(seed))
	w = &World{rng: r, f: f, lT: map[int64]*Op{}, tr: tr}
	w.nM = 2 + r.Intn(2)
	w.nK = w.nM * 2 * (1 + r.Intn(2))
	for i := range w.nM {
		w.ms = append(w.ms, &Member{id: i, epoch: 1, F: 0, txn: map[int64]*Decision{}})
	}
	w.co = Coord{has: true, epoch: 1, clock: 1}
	w.snap = w.co
	pick := func(a ...float64) float64 { return a[r.Intn(len(a))] }
	w.pTimeout = pick(0, 0.01, 0.05)
	w.pDrop = pick(0, 0.02, 0.1)
	w.pGrace = pick(0.01, 0.05, 0.3)
	w.pCrash = pick(0, 0.0005, 0.002)
	w.pLoss = pick(0, 0.0005, 0.002, 0.005) * loss
	w.pSlow = pick(0, 0.05, 0.2)
	w.xw = xw
	for range 2 + r.Intn(3) {
		w.newProc()
	}
	n := (500 + r.Intn(6000)) * sizeF
	for w.step < n && w.viol == "" && (w.live > 0 || len(w.procs) < 3) {
		w.doStep()
	}
	w.fair = true
	w.log("FAIR")
	lim := w.step + 150000
	for w.step < lim && w.viol == "" && (w.live > 0 || w.pending()) {
		w.doStep()
	}
	if w.viol == "" && (w.live > 0 || w.pending()) {
		w.fail("liveness: %d clients stuck, locks or decisions left: %v; coord %+v", w.live, w.pending(), w.co)
		if w.tr {
			for _, m := range w.ms {
				fmt.Printf("M%d epoch %d F %d clk %d slots %v lock %v whole %v txn %v\n", m.id, m.epoch, m.F, m.clk, m.slots, m.lock, m.whole, m.txn)
			}
			for _, p := range w.procs {
				fmt.Printf("p%d up %v ready %v epoch %d W %d pos %v sF %v need %v got %v\n", p.id, p.up, p.ready, p.epoch, p.W, p.pos, p.sF, p.need, p.got)
			}
		}
	}
	if w.viol == "" {
		for range 20000 {
			if len(w.msgs) == 0 {
				break
			}
			i := r.Intn(len(w.msgs))
			m := w.msgs[i]
			w.msgs[i] = w.msgs[len(w.msgs)-1]
			w.msgs = w.msgs[:len(w.msgs)-1]
			m.reply, m.done = m.exec(), true
		}
		for _, p := range w.procs {
			if p.up {
				for mi := range w.ms {
					for p.pos[mi] >= 0 && p.pos[mi] < len(w.ms[mi].log) {
						p.deliver(mi)
					}
				}
			}
		}
	}
	for _, p := range w.procs {
		for _, co := range p.cos {
			if !co.done {
				co.done = true
				co.stop()
			}
		}
	}
	if w.viol == "" {
		w.check()
	}
	return
}

// rules are the rules that can be taken away, by the names that -f has for them.
func (f *Flags) rules() map[string]*bool {
	return map[string]*bool{
		"noDelMark": &f.noDelMark, "noFence": &f.noFence, "hdrC": &f.hdrC, "noEpoch": &f.noEpoch, "noCmpMark": &f.noCmpMark,
		"awPin": &f.awPin, "awSettle": &f.awSettle, "awRebuild": &f.awRebuild, "awRead": &f.awRead, "awBack": &f.awBack,
		"awExclLock": &f.awExclLock, "awStartDec": &f.awStartDec, "awDecide": &f.awDecide, "awLatePrep": &f.awLatePrep,
		"awFenceStart": &f.awFenceStart, "restore": &f.restore, "xOthers": &f.xOthers, "xHelpOrder": &f.xHelpOrder,
		"xNoDecGuard": &f.xNoDecGuard, "xNoDecLook": &f.xNoDecLook, "xStale": &f.xStale, "xAbortEpoch": &f.xAbortEpoch,
		"xFirstPart": &f.xFirstPart, "xNoRestore": &f.xNoRestore, "xClaimRead": &f.xClaimRead, "xWholeFence": &f.xWholeFence,
		"xPartClk": &f.xPartClk, "xAbortClk": &f.xAbortClk, "xDelEarly": &f.xDelEarly, "xWholeLock": &f.xWholeLock,
		"xDecFirst": &f.xDecFirst, "xStaleView": &f.xStaleView, "awId": &f.awID, "awDecRec": &f.awDecRec, "awDecClk": &f.awDecClk,
		"awFb": &f.awFb, "awClkRef": &f.awClkRef, "awRebuildE": &f.awRebuildE, "awRefused": &f.awRefused,
		"noClkInv": &f.awRestoreOK,
	}
}

func main() {
	seed := flag.Int64("seed", 1, "")
	n := flag.Int64("n", 1000, "")
	xw := flag.Int("x", 0, "percent cross")
	loss := flag.Float64("loss", 1, "")
	tr := flag.Bool("v", false, "")
	d := flag.Duration("d", time.Hour, "")
	stop := flag.Int("stop", 3, "stop after violations")
	fl := flag.String("f", "", "flags")
	skip := flag.Bool("skiplive", false, "")
	lv := 0
	size := flag.Int("size", 1, "")
	flag.IntVar(&maxLoss, "maxloss", 1<<30, "")
	flag.Parse()
	sizeF = *size
	var f Flags
	rules := f.rules()
	if *fl != "" {
		for _, s := range splitc(*fl) {
			p := rules[s]
			if p == nil {
				fmt.Println("no flag", s)
				os.Exit(2)
			}
			*p = true
		}
	}
	t0 := time.Now()
	bad, steps, ops, landed, reb, xl := 0, 0, 0, 0, 0, 0
	i := *seed
	for ; i < *seed+*n && time.Since(t0) < *d; i++ {
		w := run(i, f, *xw, *loss, *tr)
		steps += w.step
		ops += len(w.ops)
		landed += len(w.landed)
		reb += w.rebuilds
		for _, o := range w.landed {
			if o.cross {
				xl++
			}
		}
		if w.viol != "" && *skip && strings.HasPrefix(w.viol, "live") {
			lv++
		} else if w.viol != "" {
			bad++
			if bad <= *stop {
				fmt.Printf("seed %d step %d: %s\n", i, w.step, w.viol)
			}
			if bad >= *stop {
				i++
				break
			}
		}
	}
	fmt.Printf("flags=%q x=%d seeds=%d steps=%d ops=%d landed=%d cross=%d rebuilds=%d BAD=%d live=%d in %v\n", *fl, *xw, i-*seed, steps, ops, landed, xl, reb, bad, lv, time.Since(t0).Round(time.Millisecond))
}

func splitc(s string) (o []string) {
	cur := ""
	for _, c := range s + "," {
		if c == ',' {
			o = append(o, cur)
			cur = ""
		} else {
			cur += string(c)
		}
	}
	return
}
