// Command sim is a randomized simulator of the ordering protocol. README.md says what it models, and which rules can be taken away
// to see what they are good for.
package main

import (
	"fmt"
	"iter"
	"math/rand"
)

const maxK = 12

type KV struct {
	val, ver      int
	stamp, create int64
	nmod, ncreate int
}

type State [maxK]KV

type Ev struct {
	T   int64
	key int
	del bool
	kv  KV
}
type Mark struct {
	T      int64
	landed bool
}
type MRev struct {
	evs      []Ev
	marks    []Mark
	fence    bool
	epoch, F int64
	part     *Part
	locks    []LockV
	lockBy   [maxK]int64
	wholeBy  int64
}
type Decision struct {
	id, T, epoch int64
	n            int
	parts        []*MOp
	shares       []Share
	op           *Op
}
type Part struct {
	T    int64
	i, n int
}
type Member struct {
	id            int
	epoch, F, clk int64
	slots         [maxK]int64
	lock          [maxK]int64 // id or 0
	lockPrim      [maxK]int
	whole         int64 // id or 0
	wholePrim     int
	keys          State
	txn           map[int64]*Decision
	log           []MRev
}
type Coord struct {
	has          bool
	epoch, clock int64
	nonce, claim int64
}
type Act struct {
	put  bool
	key  int
	val  int
	keys []int // range delete
}
type Cmp struct {
	key, field int
	want       int64
}
type Op struct {
	id, proc   int
	cmps       []Cmp
	then, els  []Act
	pre, post  bool
	excl       bool
	cross      bool
	read       int // 0 no, 1 linearizable, 2 serializable, 3 at R, 4 slot-fenced read
	rkey       int
	R          int64
	start, end int
	rev        int64
	done       bool
	ans        []int64
	T          int64
	landed     int
	evs        []Ev
}
type Flags struct {
	noDelMark, noFence, hdrC, noEpoch, noCmpMark                                                           bool // mutations
	awPin, awSettle, awRebuild, awRead, awBack                                                             bool // protocol as written (literal readings)
	awExclLock, awStartDec, awDecide, awLatePrep, awFenceStart                                             bool
	restore                                                                                                bool
	xOthers, xHelpOrder, xNoDecGuard, xNoDecLook, xStale, xAbortEpoch, xFirstPart                          bool
	xNoRestore, xClaimRead, xWholeFence, xPartClk, xAbortClk, xDelEarly, xWholeLock, xDecFirst, xStaleView bool
	awID, awDecRec, awDecClk, awFb, awClkRef, awRestoreOK, awRefused, awRebuildE                           bool
}
type Msg struct {
	exec  func() any
	reply any
	done  bool
	gone  bool
	slow  int
	desc  string
}
type Co struct {
	w      *World
	next   func() (int, bool)
	stop   func()
	yieldf func(int) bool
	msg    *Msg
	cond   func() bool
	grace  bool
	res    int // 0 ok 1 unknown 2 grace
	done   bool
	p      *Proc
	client bool
	rebE   int64
}
type Seen struct {
	landed bool
	epoch  int64
	m      int
}
type Proc struct {
	id       int
	w        *World
	epoch    int64
	up       bool
	ready    bool
	pos      []int
	sEpoch   []int64
	sF       []int64
	slow     []int
	seen     map[int64]*Seen
	evs      map[int64][]Ev
	need     map[int64]int
	got      map[int64]int
	W, C0    int64
	released []Ev
	cos      []*Co
	queue    [][]*Pend
	busy     map[int]bool
	rebuild  bool
	pendF    [][]ERep
}
type Pend struct {
	op    *Op
	slots []int
	build func(T int64) *MOp
	done  bool
	out   Out
	m     int
}
type Out struct {
	st    int // 0 landed 1 refused 2 wrongepoch 3 unknown 4 not sent
	T     int64
	epoch int64
	prevs []int64
}
type Pin struct {
	key, n int
	create bool
}
type MOp struct {
	op    *Op
	T     int64
	slots []int
	pins  []Pin
	evs   []Ev // puts and dels
	mark  []int
	excl  bool
}
type World struct {
	rng    *rand.Rand
	f      Flags
	step   int
	co     Coord
	snap   Coord
	ms     []*Member
	procs  []*Proc
	cos    []*Co
	msgs   []*Msg
	ops    []*Op
	nM, nK int
	viol   string
	fair   bool
	landed []*Op
	lT     map[int64]*Op
	val    int
	left   int
	tr     bool
	// rates
	pTimeout, pDrop, pGrace, pCrash, pLoss, pSlow float64
	live                                          int
	rebuilds, alarms                              int
	xw                                            int
	nonce, nid                                    int64
	aborts                                        int
	losses                                        int
}

var maxLoss = 1 << 30

type crash struct{}

func (w *World) fail(s string, a ...any) {
	if w.viol == "" {
		w.viol = fmt.Sprintf(s, a...)
		w.log("VIOLATION %s", w.viol)
	}
}

func (w *World) log(s string, a ...any) {
	if w.tr {
		fmt.Printf("%6d "+s+"\n", append([]any{w.step}, a...)...)
	}
}
func (w *World) slotOf(k int) int    { return k / 2 }
func (w *World) memOf(k int) int     { return (k / 2) % w.nM }
func (w *World) coin(p float64) bool { return w.rng.Float64() < p }

func (w *World) spawn(p *Proc, client bool, fn func(co *Co)) {
	co := &Co{w: w, p: p, client: client}
	seq := iter.Seq[int](func(y func(int) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crash); !ok {
					panic(r)
				}
			}
		}()
		co.yieldf = y
		fn(co)
	})
	co.next, co.stop = iter.Pull(seq)
	w.cos = append(w.cos, co)
	p.cos = append(p.cos, co)
	if client {
		w.live++
	}
}

func (co *Co) pause() {
	if !co.yieldf(0) {
		panic(crash{})
	}
}

func (co *Co) rpc(desc string, exec func() any) (any, bool) {
	m := &Msg{exec: exec, desc: desc}
	w := co.w
	if w.coin(w.pSlow) {
		m.slow = w.step + w.rng.Intn(2000)
	}
	w.msgs = append(w.msgs, m)
	co.msg = m
	co.pause()
	co.msg = nil
	if co.res == 1 {
		return nil, false
	}
	return m.reply, true
}

func (co *Co) wait(grace bool, c func() bool) bool { // false: grace over
	if c() {
		return true
	}
	co.cond, co.grace = c, grace
	co.pause()
	co.cond = nil
	return co.res == 0
}

func (w *World) resume(co *Co, res int) {
	co.res = res
	_, ok := co.next()
	if !ok {
		w.kill(co)
	}
}

func (w *World) kill(co *Co) {
	if co.done {
		return
	}
	co.done = true
	if co.client {
		w.live--
	}
	for i, c := range w.cos {
		if c == co {
			w.cos[i] = w.cos[len(w.cos)-1]
			w.cos = w.cos[:len(w.cos)-1]
			break
		}
	}
}

func (w *World) crashProc(p *Proc) {
	w.log("CRASH p%d", p.id)
	p.up = false
	for _, co := range p.cos {
		if !co.done {
			w.kill(co)
			co.stop()
		}
	}
}

func (w *World) doStep() {
	w.step++
	r := w.rng
	switch x := r.Intn(100); {
	case x < 40:
		if len(w.cos) == 0 {
			return
		}
		co := w.cos[r.Intn(len(w.cos))]
		if co.msg != nil {
			m := co.msg
			if m.done {
				if !w.fair && w.coin(w.pDrop) {
					w.log("lost reply %s p%d", m.desc, co.p.id)
					w.resume(co, 1)
				} else {
					w.resume(co, 0)
				}
			} else if m.gone || (!w.fair && w.coin(w.pTimeout)) {
				w.log("timeout %s p%d", m.desc, co.p.id)
				w.resume(co, 1)
			}
		} else if co.cond != nil {
			if co.cond() {
				w.resume(co, 0)
			} else if co.grace && w.coin(w.pGrace) {
				w.resume(co, 2)
			}
		} else {
			w.resume(co, 0)
		}
	case x < 70:
		if len(w.msgs) == 0 {
			return
		}
		i := r.Intn(len(w.msgs))
		m := w.msgs[i]
		if !w.fair && m.slow > w.step {
			return
		}
		w.msgs[i] = w.msgs[len(w.msgs)-1]
		w.msgs = w.msgs[:len(w.msgs)-1]
		if !w.fair && w.coin(w.pDrop) {
			m.gone = true
			w.log("drop %s", m.desc)
			return
		}
		m.reply = m.exec()
		m.done = true
		if w.tr {
			w.log("exec %s -> %+v", m.desc, m.reply)
		}
	default:
		p := w.procs[r.Intn(len(w.procs))]
		if !p.up {
			return
		}
		mi := r.Intn(w.nM)
		if p.pos[mi] < 0 || (!w.fair && p.slow[mi] > w.step) {
			return
		}
		if !w.fair && w.coin(w.pSlow/4) {
			p.slow[mi] = w.step + r.Intn(1500)
			return
		}
		p.deliver(mi)
	}
	if !w.fair {
		if w.coin(w.pCrash) {
			p := w.procs[r.Intn(len(w.procs))]
			if p.up {
				w.crashProc(p)
				w.newProc()
			}
		}
		if w.losses < maxLoss && w.coin(w.pLoss) {
			w.losses++
			if w.f.restore {
				w.co = w.snap
				w.log("COORD RESTORED to %+v", w.co)
			} else {
				w.co = Coord{}
				w.log("COORD LOST")
			}
		}
		if w.coin(0.002) {
			w.snap = w.co
		}
	}
}

func (p *Proc) deliver(mi int) {
	m := p.w.ms[mi]
	if p.pos[mi] >= len(m.log) {
		return
	}
	rv := &m.log[p.pos[mi]]
	p.pos[mi]++
	p.sEpoch[mi] = rv.epoch
	if rv.F > p.sF[mi] && rv.fence {
		p.sF[mi] = rv.F
	}
	for _, mk := range rv.marks {
		s := p.seen[mk.T]
		if s == nil {
			p.seen[mk.T] = &Seen{landed: mk.landed, epoch: rv.epoch, m: mi}
		} else {
			if mk.landed && (!s.landed || rv.part != nil && rv.part.i == 0) { // same number again in a later epoch
				*s = Seen{landed: true, epoch: rv.epoch, m: mi}
			}
		}
	}
	if rv.part != nil {
		p.need[rv.part.T] = rv.part.n
		p.got[rv.part.T]++
	}
	for _, e := range rv.evs {
		if e.T <= p.W && e.T > p.C0 {
			p.w.fail("p%d delivered event stamp %d at or below W=%d", p.id, e.T, p.W)
		}
		p.evs[e.T] = append(p.evs[e.T], e)
	}
	rest := p.pendF[mi][:0]
	for _, r := range p.pendF[mi] {
		if p.pos[mi] >= r.pos {
			p.sF[mi] = max(p.sF[mi], r.F)
		} else {
			rest = append(rest, r)
		}
	}
	p.pendF[mi] = rest
	p.advance()
}

func (p *Proc) advance() {
	if !p.ready {
		return
	}
	fm := int64(1 << 62)
	for _, f := range p.sF {
		fm = min(fm, f)
	}
	for {
		n := p.W + 1
		if k := p.need[n]; k > 0 && !p.w.f.xFirstPart {
			if p.got[n] < k {
				return
			}
		} else if p.seen[n] == nil && n > fm {
			return
		}
		p.W = n
		if c := &p.w.co; c.has && n > c.clock && !p.w.f.restore && !p.w.f.awRestoreOK {
			p.w.fail("p%d closed W=%d above the clock %d (epoch %d)", p.id, n, c.clock, c.epoch)
		}
		p.released = append(p.released, p.evs[n]...)
	}
}

// snapshot at R: base + tail per member, from what was delivered to this process
func (p *Proc) snapshot(R int64) (st State) {
	if R > p.W {
		p.w.fail("snapshot above W")
	}
	for mi, m := range p.w.ms {
		lg := m.log[:p.pos[mi]]
		lo := len(lg)
	find:
		for i := range lg {
			for _, mk := range lg[i].marks {
				if mk.T > R {
					lo = i
					break find
				}
			}
		}
		for i := range lg {
			for _, e := range lg[i].evs {
				if i >= lo && e.T > R {
					continue
				}
				if e.del {
					st[e.key] = KV{}
				} else {
					st[e.key] = e.kv
				}
			}
		}
	}
	return
}

// what this process has seen of one member, unordered (the cache a writer pins from)
func (p *Proc) cached(mi int) (st State) {
	for i := range p.w.ms[mi].log[:p.pos[mi]] {
		for _, e := range p.w.ms[mi].log[i].evs {
			if e.del {
				st[e.key] = KV{}
			} else {
				st[e.key] = e.kv
			}
		}
	}
	return
}

func field(kv *KV, f int) int64 {
	switch f {
	case 0:
		return kv.stamp
	case 1:
		return int64(kv.ver)
	case 2:
		return int64(kv.val)
	}
	return kv.create
}

func enc(a []int64, st *State, nK int) []int64 {
	for i := range nK {
		k := &st[i]
		if k.ver > 0 {
			a = append(a, int64(i), int64(k.val), k.stamp, k.create, int64(k.ver))
		}
	}
	return append(a, -1)
}

func succ(st *State, op *Op) bool {
	for _, c := range op.cmps {
		if field(&st[c.key], c.field) != c.want {
			return false
		}
	}
	return true
}

// eval: the user's semantics. Applies to st.
func eval(st *State, op *Op, T int64) (evs []Ev, ans []int64) {
	ok := succ(st, op)
	acts := op.els
	ans = append(ans, 0)
	if ok {
		acts = op.then
		ans[0] = 1
	}
	for _, a := range acts {
		if a.put {
			o := st[a.key]
			ans = append(ans, o.stamp, int64(o.val))
			n := KV{val: a.val, ver: o.ver + 1, stamp: T, create: o.create}
			if o.ver == 0 {
				n.create = T
			}
			st[a.key] = n
			evs = append(evs, Ev{T: T, key: a.key, kv: n})
			continue
		}
		for _, k := range a.keys {
			if st[k].ver > 0 {
				ans = append(ans, int64(k), st[k].stamp)
				st[k] = KV{}
				evs = append(evs, Ev{T: T, key: k, del: true})
			}
		}
	}
	return
}
