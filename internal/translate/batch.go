package translate

import (
	"errors"
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Batch is one member transaction of a process (group commit): operations on disjoint keys and disjoint Slots, and stamps
// given up. The epoch, the fence and the lock are compared once for all: below the lowest stamp, because
// a fence among the stamps of a batch is rare and a refused stamp costs only another one.
//
// Operations land each by itself, as nested transactions, or Together: all if all their guards hold, else none. Together
// takes a fraction of the bytes and of the work on both sides, and is right as long as refusals are rare: a
// refusal then says neither whose guard it was nor what the present states are.
type Batch struct {
	Epoch     int64
	Ops       []*Guarded
	Surrender []int64
	Together  bool // see CanTogether
}

// Cost is what an operation takes of a member's max-txn-ops as a nested transaction.
func (g *Guarded) Cost() int {
	if g.read {
		return cost(g.Txn)
	}
	return max(len(g.Txn.Compare), len(g.Txn.Success), 1+len(g.keys))
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
	// frame is what a batch has behind its operations: a mark of the surrendered stamps, and the clock.
	frame = 2
	// refusalCost is what the branch of a refused batch takes behind the list of the batch.
	refusalCost = frame + 1 + 3
)

// Fits reports whether a batch of n operations, the costliest of them of the given cost, stays within a member's
// max-txn-ops: etcd takes the longest list of every level off the budget of the levels below.
func Fits(n, costliest, maxTxnOps int) bool {
	return max(n+frame, 3)+max(costliest, refusalCost) <= maxTxnOps
}

// CanTogether reports whether the operations may land together within a member's max-txn-ops.
func (b *Batch) CanTogether(maxTxnOps int) bool {
	compares, effects := 3, frame
	for _, op := range b.Ops {
		if op.read {
			return false
		}
		compares += len(op.Txn.Compare)
		effects += len(op.Txn.Success)
	}
	return max(compares, effects)+refusalCost <= maxTxnOps
}

// surrenderedMark is the index of the mark of surrendered stamps, clear of the operations' own, so that a batch can be split.
const surrenderedMark = 1 << 15

// Request builds the member transaction. In it, every stamp leaves its mark, and `clock` is raised to the highest of them.
func (b *Batch) Request() *pb.TxnRequest {
	low, high := int64(math.MaxInt64), int64(0)
	stamps := make([]int64, len(b.Ops))
	for i, op := range b.Ops {
		stamps[i] = op.Stamp
		low, high = min(low, op.Stamp), max(high, op.Stamp)
	}
	tail := make([]*pb.RequestOp, 0, frame)
	if len(b.Surrender) > 0 {
		high = max(high, slices.Max(b.Surrender))
		tail = append(tail, marksOp(surrenderedMark, b.Surrender, record.Surrendered))
	}
	tail = append(tail, raiseClock(b.Epoch, high))
	req := &pb.TxnRequest{Compare: guardMember(b.Epoch, low)}
	if b.Together {
		b.together(req)
	} else {
		req.Success = make([]*pb.RequestOp, 0, len(b.Ops)+frame)
		for _, op := range b.Ops {
			req.Success = append(req.Success, request.Txn(op.nested()))
		}
	}
	req.Success = append(req.Success, tail...)
	req.Failure = []*pb.RequestOp{ifEpoch(b.Epoch, append(b.refusal(stamps, low), tail...))}
	return req
}

// together puts all guards and all effects on the outer level.
func (b *Batch) together(req *pb.TxnRequest) {
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
	}
}

// refusal marks the stamps of a batch that is refused as a whole: by the fence or the lock, or, Together, by some guard.
func (b *Batch) refusal(stamps []int64, low int64) []*pb.RequestOp {
	if len(stamps) == 0 {
		return nil
	}
	fenced := marksOp(0, stamps, record.Fenced)
	if !b.Together {
		return []*pb.RequestOp{fenced}
	}
	return []*pb.RequestOp{request.Txn(&pb.TxnRequest{
		Compare: guardMember(b.Epoch, low),
		Success: []*pb.RequestOp{marksOp(0, stamps, record.SlotAhead)},
		Failure: []*pb.RequestOp{fenced},
	})}
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
		Compare: []*pb.Compare{
			request.ValueAbove([]byte(record.KeyFence), record.Number(epoch)),
			request.ValueBelow([]byte(record.KeyFence), record.Number(epoch+1)),
		},
		Success: ops,
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)})},
	})
}

func raiseClock(epoch, stamp int64) *pb.RequestOp {
	v := record.Pair(epoch, stamp)
	return request.Txn(&pb.TxnRequest{
		Compare: []*pb.Compare{request.ValueBelow([]byte(record.KeyClock), v)},
		Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(record.KeyClock), Value: v})},
	})
}

// Outcome is what became of one operation.
type Outcome struct {
	Landed    bool
	MemberRev int64    // of the member transaction
	Results   []Result // landed: of the effects, in order
	Fenced    bool     // refused by the fence or the lock
	Together  bool     // refused with the whole batch, by some operation's guard; otherwise by a guard of its own:
	Keys      [][]byte // the keys it pinned
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
// pairs in resp into the user's view.
func (b *Batch) Decode(resp *pb.TxnResponse) ([]Outcome, error) {
	rev := resp.Header.GetRevision()
	outs := make([]Outcome, len(b.Ops))
	if !resp.Succeeded {
		if err := wrongEpoch(resp); err != nil {
			return nil, err
		}
		out := Outcome{Fenced: true, MemberRev: rev}
		if b.Together {
			marks := resp.Responses[0].GetResponseTxn().GetResponses()
			if len(marks) == 0 {
				return nil, errShape
			}
			out.Together = marks[0].GetResponseTxn().GetSucceeded()
			out.Fenced = !out.Together
		}
		for i := range outs {
			outs[i] = out
		}
		return outs, nil
	}
	if b.Together {
		return b.decodeTogether(resp, outs)
	}
	if len(resp.Responses) < len(b.Ops) {
		return nil, errShape
	}
	for i, op := range b.Ops {
		t := resp.Responses[i].GetResponseTxn()
		if t == nil {
			return nil, errShape
		}
		out, err := op.decode(t)
		if err != nil {
			return nil, err
		}
		out.MemberRev = rev
		outs[i] = out
	}
	return outs, nil
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
	if len(t.Responses) != 1 || len(t.Responses[0].GetResponseRange().GetKvs()) != 1 {
		return errShape
	}
	epoch, _, err := record.ParsePair(t.Responses[0].GetResponseRange().Kvs[0].Value)
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
			return Outcome{}, nil // a mark: refused
		}
		t = t.Responses[0].GetResponseTxn()
		if t.Succeeded {
			break
		}
	}
	out := Outcome{Landed: t.Succeeded}
	if len(t.Responses) == 2 {
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
