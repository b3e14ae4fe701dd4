package faults

import (
	"context"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// step is a step of a transfer over all members, and what becomes of a transfer whose writer dies there.
type step struct {
	at       moment
	survives int // requests that come to the moment before
	name     string
	happens  bool
}

var steps = []step{
	{afterLock, 0, "one member is locked", false},
	{beforeLock, members - 1, "one member is not locked", false},
	{afterLock, members - 1, "all members are locked", false},
	{beforeTxnStamp, 0, "the stamp is taken", false},
	{beforeDecision, 0, "nothing is decided", false},
	{afterDecision, 0, "it is decided", true},
	{beforePart, 0, "no other part is sent", true},
	{afterPart, 0, "one other part has landed", true},
	{beforePart, members - 2, "one part is not sent", true},
	{afterPart, members - 2, "all parts have landed", true},
	{beforeTidying, 0, "the decision is still there", true},
	{afterTidying, 0, "nothing is left to do", true},
}

// fate is the step that a transaction gets stuck at, and how far it came.
type fate struct {
	step
	key    string // one of those that it touches
	locks  int    // members that it has locked
	passed map[moment]int
	stuck  bool
}

// doom makes transactions of a process get stuck, each at a step of its own, before the process dies. It gives a step to each
// transaction that begins, as long as there are some. A nil doom is none.
type doom struct {
	mu    sync.Mutex
	steps []step
	fates map[record.TxnID]*fate
	stuck int
	want  int
	first chan struct{} // closed when one is stuck
	all   chan struct{} // closed when as many are stuck as there were steps
	most  chan struct{} // closed when all but one are
}

func newDoom(steps ...step) *doom {
	d := &doom{steps: steps, want: len(steps), fates: map[record.TxnID]*fate{}, first: make(chan struct{}), all: make(chan struct{}), most: make(chan struct{})}
	if d.want == 1 {
		close(d.most)
	}
	return d
}

// delay holds up the last answer about locks of a transaction that gets stuck when it takes its stamp: stamps are taken for many
// at once, so it must be the last.
func (d *doom) delay(ctx context.Context, req any) {
	if d == nil || phaseOf(req) != lock {
		return
	}
	d.mu.Lock()
	f := d.fates[idsOf(req.(*pb.TxnRequest))[0]]
	last := f != nil && f.at == beforeTxnStamp && f.locks == members
	d.mu.Unlock()
	if last {
		select {
		case <-d.most:
		case <-ctx.Done():
		}
	}
}

// sticks reports whether a request gets stuck before it is sent or, with its reply, before its sender hears of it.
func (d *doom) sticks(req, reply any) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := phaseOf(req)
	if p == add {
		return reply != nil && d.stampSticksLocked()
	}
	moments, known := momentsOf[p]
	if p == unlock {
		d.returnLocked(req.(*pb.TxnRequest))
	}
	if !known || p == flight {
		return false
	}
	at := moments.before
	if reply != nil {
		if resp, ok := reply.(*pb.TxnResponse); !ok || !resp.Succeeded {
			return false // it was refused
		}
		at = moments.after
	}
	sticks := false
	for _, id := range idsOf(req.(*pb.TxnRequest)) {
		f := d.fateLocked(id, req.(*pb.TxnRequest), p)
		if f == nil {
			continue
		}
		if at == afterLock {
			f.locks++
		}
		if f.at == at && !f.stuck {
			sticks = f.passed[at] >= f.survives || sticks
			f.passed[at]++
		}
		if sticks {
			d.stickLocked(f)
		}
	}
	return sticks
}

// stampSticksLocked: the stamp is that of a transaction that has locked all members, and none of the others needs one any more.
func (d *doom) stampSticksLocked() bool {
	for _, f := range d.fates {
		if f.at == beforeTxnStamp && f.locks == members && !f.stuck && d.stuck == d.want-1 {
			d.stickLocked(f)
			return true
		}
	}
	return false
}

func (d *doom) stickLocked(f *fate) {
	if f.stuck {
		return
	}
	f.stuck = true
	d.stuck++
	if d.stuck == 1 {
		close(d.first)
	}
	if d.stuck == d.want {
		close(d.all)
	}
	if d.stuck == d.want-1 {
		close(d.most)
	}
}

// fateLocked returns the fate of a transaction, which a new one is given; nil: none.
func (d *doom) fateLocked(id record.TxnID, req *pb.TxnRequest, p phase) *fate {
	f := d.fates[id]
	if f == nil && p == lock && len(d.steps) > 0 {
		f = &fate{step: d.steps[0], passed: map[moment]int{}, key: userKey(req)}
		d.steps, d.fates[id] = d.steps[1:], f
	}
	return f
}

// returnLocked gives a step to another transaction, if one has given back its locks before it came to it.
func (d *doom) returnLocked(req *pb.TxnRequest) {
	for _, id := range idsOf(req) {
		if f := d.fates[id]; f != nil && !f.stuck {
			delete(d.fates, id)
			d.steps = append(d.steps, f.step)
		}
	}
}

// died returns the fates that came true.
func (d *doom) died() []fate {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []fate
	for _, f := range d.fates {
		if f.stuck {
			out = append(out, *f)
		}
	}
	return out
}

// idsOf finds the transactions that a request is about.
func idsOf(txn *pb.TxnRequest) []record.TxnID {
	var ids []record.TxnID
	add := func(id record.TxnID, ok bool) {
		if ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	holder := func(value []byte) {
		h, held, err := record.ParseHolder(value)
		add(h.ID, held && err == nil)
	}
	for _, c := range txn.Compare {
		if isHeld(c) {
			holder(c.GetValue())
		}
	}
	for _, op := range operations(txn.Success) {
		holder(op.GetRequestPut().GetValue())
		for _, key := range [][]byte{op.GetRequestPut().GetKey(), op.GetRequestDeleteRange().GetKey()} {
			if record.KindOf(key) == record.Txn {
				id, err := record.TxnOf(key)
				add(id, err == nil)
			}
		}
	}
	return ids
}

// userKey is one of the users' keys that a request reads.
func userKey(txn *pb.TxnRequest) string {
	for _, op := range operations(txn.Success) {
		if key := op.GetRequestRange().GetKey(); len(key) > 0 && record.KindOf(key) == record.User {
			return string(key)
		}
	}
	return ""
}
