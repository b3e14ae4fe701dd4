package translate

import (
	"errors"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Batch is one member transaction of a process (group commit): operations on disjoint keys and disjoint Slots, and stamps
// given up. The epoch, the fence and the lock are compared once for all: below the lowest stamp, because
// a fence among the stamps of a batch is rare and a refused stamp costs only another one.
//
// Operations land each by itself, as nested transactions, or Together: all if all their guards hold, else none. Together
// takes a fraction of the bytes and of the work on both sides, and is right as long as refusals are rare: a
// refusal then does not say whose guard it was.
//
// A batch that is refused as a whole leaves nothing on the member. Its stamps are marked by a request of their own, Mark, which
// is sent only when the refusal has been answered.
type Batch struct {
	Epoch     int64
	Closed    int64 // a revision that the sender knows to be closed
	Ops       []*Guarded
	Surrender []int64
	Together  bool // see CanTogether
}

// Cost is what an operation takes of a member's max-txn-ops as a nested transaction.
func (g *Guarded) Cost() int {
	if g.read {
		return cost(g.Txn)
	}
	return max(len(g.Txn.Compare), len(g.Txn.Success)+1, 1+len(g.keys))
}

func cost(t *pb.TxnRequest) int {
	n, inner := max(len(t.Compare), len(t.Success), len(t.Failure)), 0
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			if x := op.GetRequestTxn(); x != nil {
				inner = max(inner, cost(x))
			}
		}
	}
	return n + inner
}

const (
	// frame is what a batch has behind its operations: a manifest and the clock.
	frame = 2
	// raiseCost is what raising the clock takes as a nested transaction.
	raiseCost = 1
)

// Fits reports whether a batch of n operations, the costliest of them of the given cost, stays within a member's
// max-txn-ops: etcd takes the longest list of every level off the budget of the levels below.
func Fits(n, costliest, maxTxnOps int) bool {
	return max(n+frame, memberGuards)+max(costliest, raiseCost) <= maxTxnOps
}

// CanTogether reports whether the operations may land together within a member's max-txn-ops.
func (b *Batch) CanTogether(maxTxnOps int) bool {
	compares, effects := memberGuards, frame
	for _, op := range b.Ops {
		if op.read {
			return false
		}
		compares += len(op.Txn.Compare)
		effects += len(op.Txn.Success)
	}
	return max(compares, effects)+raiseCost <= maxTxnOps
}

// bounds are the lowest stamp of the operations, and the highest of all.
func (b *Batch) bounds() (low, high int64) {
	low = math.MaxInt64
	for _, op := range b.Ops {
		low, high = min(low, op.Stamp), max(high, op.Stamp)
	}
	for _, s := range b.Surrender {
		high = max(high, s)
	}
	return low, high
}

// Request builds the member transaction. Its manifests name every stamp, and `clock` is raised to the highest of them.
func (b *Batch) Request() *pb.TxnRequest {
	low, high := b.bounds()
	req := &pb.TxnRequest{Failure: whyNot()}
	if len(b.Ops) == 0 {
		req.Compare = inEpoch(b.Epoch) // no fence and no lock are in the way of stamps that change nothing
	} else {
		req.Compare = guardMember(b.Epoch, low)
	}
	entries := make([]manifest.Entry, 0, len(b.Ops)+len(b.Surrender))
	if b.Together {
		entries = b.together(req, entries)
	} else {
		req.Success = make([]*pb.RequestOp, 0, len(b.Ops)+frame)
		for _, op := range b.Ops {
			req.Success = append(req.Success, request.Txn(op.nested()))
		}
	}
	entries = append(entries, manifest.Of(manifest.Surrendered, b.Surrender...)...)
	req.Success = append(req.Success, Note(entries...), raiseClock(b.Epoch, high, b.Closed))
	return req
}

// together puts all guards and all effects on the outer level.
func (b *Batch) together(req *pb.TxnRequest, entries []manifest.Entry) []manifest.Entry {
	compares, effects := len(req.Compare), frame
	for _, op := range b.Ops {
		compares += len(op.Txn.Compare)
		effects += len(op.Txn.Success)
	}
	req.Compare = append(make([]*pb.Compare, 0, compares), req.Compare...)
	req.Success = make([]*pb.RequestOp, 0, effects)
	for _, op := range b.Ops {
		req.Compare = append(req.Compare, op.Txn.Compare...)
		req.Success = append(req.Success, op.Txn.Success...)
		entries = append(entries, op.landed())
	}
	return entries
}

// guardMember holds while the member works in epoch, its fence is below low and nobody holds its lock.
func guardMember(epoch, low int64) []*pb.Compare {
	return []*pb.Compare{
		request.ValueAbove([]byte(record.KeyFence), record.Number(epoch)),
		request.ValueBelow([]byte(record.KeyFence), record.Pair(epoch, low)),
		request.ValueIs([]byte(record.KeyLock), nil),
	}
}

// ifEpoch runs ops unless the member works in another epoch: then nothing may be left there, and the answer says which.
func ifEpoch(epoch int64, ops []*pb.RequestOp) *pb.RequestOp {
	return request.Txn(&pb.TxnRequest{
		Compare: inEpoch(epoch),
		Success: ops,
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)})},
	})
}

// Outcome is what became of one operation.
type Outcome struct {
	Landed    bool
	MemberRev int64    // of the member transaction
	Results   []Result // landed: of the effects, in order
	Fenced    bool     // refused by the fence or the lock
	Together  bool     // refused with the whole batch, by some operation's guard; otherwise by a guard of its own
	Keys      [][]byte // refused by a guard: the keys it pinned, if they were read
	States    []State  // and their present states
}

// Result is what one step of a run answered, in the user's view.
type Result struct {
	Prev    []*mvccpb.KeyValue // what a put replaced or a delete removed, where it was asked for
	Deleted int64
	Range   *pb.RangeResponse
}

// WrongEpochError says that a member works in another epoch: nothing landed, and nothing was left there.
type WrongEpochError struct{ Epoch int64 }

func (e *WrongEpochError) Error() string { return fmt.Sprintf("member is in epoch %d", e.Epoch) }

var errShape = errors.New("metaetcd: a member's answer does not have the shape of its request")

// Decode reads the member's answer to Request: the outcome of every operation, or *WrongEpochError. It rewrites the
// pairs in resp into the user's view. If marks is true, nothing of the batch was left on the member, and Mark is to be sent.
func (b *Batch) Decode(resp *pb.TxnResponse) (outs []Outcome, marks bool, err error) {
	rev := resp.Header.GetRevision()
	outs = make([]Outcome, len(b.Ops))
	if !resp.Succeeded {
		fenced, err := b.refusedBy(resp)
		if err != nil {
			return nil, false, err
		}
		for i := range outs {
			outs[i] = Outcome{MemberRev: rev, Fenced: fenced, Together: !fenced}
		}
		return outs, true, nil
	}
	if b.Together {
		outs, err = b.decodeTogether(resp, outs)
		return outs, false, err
	}
	if len(resp.Responses) < len(b.Ops) {
		return nil, false, errShape
	}
	for i, op := range b.Ops {
		t := resp.Responses[i].GetResponseTxn()
		if t == nil {
			return nil, false, errShape
		}
		out, err := op.decode(t)
		if err != nil {
			return nil, false, err
		}
		out.MemberRev = rev
		outs[i] = out
	}
	return outs, false, nil
}

// refusedBy reports whether it was the fence or the lock that refused the whole batch; otherwise it was some guard. It fails with
// *WrongEpochError.
func (b *Batch) refusedBy(resp *pb.TxnResponse) (fenced bool, err error) {
	l := &Locked{}
	fence, err := l.decodeRefusal(b.Epoch, resp)
	if err != nil {
		return false, err
	}
	low, _ := b.bounds()
	return len(b.Ops) > 0 && fence >= low || l.Held, nil
}

// Mark builds the request that marks the stamps of a batch that was refused as a whole, as Decode has it in outs. If it was some
// operation's guard, it reads the states of the keys that the operations pin, as far as they keep within a member's max-txn-ops.
func (b *Batch) Mark(outs []Outcome, maxTxnOps int) *pb.TxnRequest {
	_, high := b.bounds()
	kind := manifest.Fenced
	if len(outs) > 0 && outs[0].Together {
		kind = manifest.Pinned
	}
	entries := make([]manifest.Entry, 0, len(b.Ops)+len(b.Surrender))
	for _, op := range b.Ops {
		entries = append(entries, op.refused(kind))
	}
	entries = append(entries, manifest.Of(manifest.Surrendered, b.Surrender...)...)
	req := &pb.TxnRequest{
		Compare: inEpoch(b.Epoch),
		Success: []*pb.RequestOp{Note(entries...), raiseClock(b.Epoch, high, b.Closed)},
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)})},
	}
	if kind == manifest.Pinned {
		for _, op := range b.marked(maxTxnOps) {
			for _, k := range op.keys {
				req.Success = append(req.Success, request.Range(&pb.RangeRequest{Key: k}))
			}
		}
	}
	return req
}

// marked are the first operations, those whose keys Mark has room for.
func (b *Batch) marked(maxTxnOps int) []*Guarded {
	n := frame + raiseCost
	for i, op := range b.Ops {
		if n += len(op.keys); n > maxTxnOps {
			return b.Ops[:i]
		}
	}
	return b.Ops
}

// DecodeMark reads the member's answer to Mark, and adds the states to outs. It fails with *WrongEpochError: nothing was left there,
// and the stamps are dead.
func (b *Batch) DecodeMark(outs []Outcome, maxTxnOps int, resp *pb.TxnResponse) error {
	if !resp.Succeeded {
		return parseWrongEpoch(resp.Responses)
	}
	rest := resp.Responses[min(frame, len(resp.Responses)):]
	if len(rest) == 0 {
		return nil
	}
	for i, op := range b.marked(maxTxnOps) {
		n := len(op.keys)
		if len(rest) < n {
			return errShape
		}
		states := make([]State, n)
		for j := range states {
			var err error
			if states[j], err = StateOf(rest[j].GetResponseRange()); err != nil {
				return err
			}
		}
		outs[i].Keys, outs[i].States, outs[i].MemberRev = op.keys, states, resp.Header.GetRevision()
		rest = rest[n:]
	}
	return nil
}

func (b *Batch) decodeTogether(resp *pb.TxnResponse, outs []Outcome) ([]Outcome, error) {
	rest := resp.Responses
	for i, op := range b.Ops {
		n := len(op.Txn.Success)
		if len(rest) < n {
			return nil, errShape
		}
		rs, err := results(rest[:n], op.write)
		if err != nil {
			return nil, err
		}
		outs[i] = Outcome{Landed: true, MemberRev: resp.Header.GetRevision(), Results: rs}
		rest = rest[n:]
	}
	return outs, nil
}

// wrongEpoch reads the answer of ifEpoch, the only operation of a refused member transaction.
func wrongEpoch(resp *pb.TxnResponse) error {
	if len(resp.Responses) != 1 || resp.Responses[0].GetResponseTxn() == nil {
		return errShape
	}
	t := resp.Responses[0].GetResponseTxn()
	if t.Succeeded {
		return nil
	}
	return parseWrongEpoch(t.Responses)
}

// parseWrongEpoch makes an error of the fence that a request read because the epoch was another.
func parseWrongEpoch(rs []*pb.ResponseOp) error {
	if len(rs) != 1 || len(rs[0].GetResponseRange().GetKvs()) != 1 {
		return errShape
	}
	epoch, _, err := record.ParsePair(rs[0].GetResponseRange().Kvs[0].Value)
	if err != nil {
		return err
	}
	return &WrongEpochError{Epoch: epoch}
}

func (g *Guarded) decode(t *pb.TxnResponse) (Outcome, error) {
	if g.read {
		return decodeRead(t)
	}
	if t.Succeeded {
		rs, err := results(t.Responses, g.write)
		return Outcome{Landed: true, Results: rs}, err
	}
	if len(t.Responses) != 1+len(g.keys) {
		return Outcome{}, errShape
	}
	out := Outcome{Keys: g.keys, States: make([]State, len(g.keys))}
	for i := range g.keys {
		s, err := StateOf(t.Responses[i+1].GetResponseRange())
		if err != nil {
			return Outcome{}, err
		}
		out.States[i] = s
	}
	return out, nil
}

// decodeRead reads the answer of Read: absent, present, or refused on one of two levels.
func decodeRead(t *pb.TxnResponse) (Outcome, error) {
	for range 2 {
		if len(t.Responses) != 1 || t.Responses[0].GetResponseTxn() == nil {
			return Outcome{}, nil // a manifest alone: refused
		}
		t = t.Responses[0].GetResponseTxn()
		if t.Succeeded {
			break
		}
	}
	out := Outcome{Landed: t.Succeeded}
	if len(t.Responses) == 3 {
		out.Results = []Result{{Range: t.Responses[1].GetResponseRange()}}
		for _, kv := range out.Results[0].Range.Kvs {
			if err := record.ToUser(kv); err != nil {
				return Outcome{}, err
			}
		}
	}
	return out, nil
}

// StateOf reads a key's state from the native answer to a range over just that key.
func StateOf(r *pb.RangeResponse) (State, error) {
	if r == nil {
		return State{}, errShape
	}
	if len(r.Kvs) == 0 {
		return State{}, nil
	}
	kv := r.Kvs[0]
	s := State{KV: kv, NativeMod: kv.ModRevision, NativeCreate: kv.CreateRevision, HasValue: true}
	return s, record.ToUser(kv)
}

func results(rs []*pb.ResponseOp, n int) ([]Result, error) {
	if len(rs) < n {
		return nil, errShape
	}
	out := make([]Result, n)
	for i := range out {
		switch r := rs[i].Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			if kv := r.ResponsePut.PrevKv; kv != nil {
				out[i].Prev = []*mvccpb.KeyValue{kv}
			}
		case *pb.ResponseOp_ResponseDeleteRange:
			out[i].Deleted, out[i].Prev = r.ResponseDeleteRange.Deleted, r.ResponseDeleteRange.PrevKvs
		default:
			return nil, errShape
		}
		for _, kv := range out[i].Prev {
			if err := record.ToUser(kv); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
