package translate

import (
	"errors"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// Batch is one member transaction of a process (section 5): operations on disjoint keys and disjoint Slots, and stamps
// given up. The epoch, the fence and the lock are compared once for all: below the lowest stamp, because
// a fence among the stamps of a batch is rare and a refused stamp costs only another one.
type Batch struct {
	Epoch     int64
	Ops       []*Guarded
	Surrender []int64
}

// Cost is what an operation takes of a member's max-txn-ops behind the list it stands in.
func (g *Guarded) Cost() int { return cost(g.Txn) }

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

// Fits reports whether a batch of n operations and surrendered stamps, the costliest of them of the given cost, stays
// within a member's max-txn-ops: etcd takes the longest list of every level off the budget of the levels below.
func Fits(n, costliest, maxTxnOps int) bool {
	list := max(n+1, 3)                          // and the clock; 3 compares
	return list+max(costliest, n+2) <= maxTxnOps // refused as a whole: as many marks, and the clock's own transaction
}

// surrenderedMarks is where the marks of surrendered stamps begin, clear of the operations' own, so that a batch can be split.
const surrenderedMarks = 1 << 15

// Request builds the member transaction. In it, every stamp leaves its mark, and `clock` is raised to the highest of them.
func (b *Batch) Request() *pb.TxnRequest {
	low, high := int64(math.MaxInt64), int64(0)
	n := len(b.Ops) + len(b.Surrender)
	then := make([]*pb.RequestOp, 0, n+1)
	refused := make([]*pb.RequestOp, 0, n+1)
	for i, op := range b.Ops {
		low, high = min(low, op.Stamp), max(high, op.Stamp)
		then = append(then, txnOp(op.Txn))
		refused = append(refused, markOp(i, op.Stamp, record.Fenced))
	}
	for i, s := range b.Surrender {
		high = max(high, s)
		m := markOp(surrenderedMarks+i, s, record.Surrendered)
		then, refused = append(then, m), append(refused, m)
	}
	clock := raiseClock(b.Epoch, high)
	return &pb.TxnRequest{
		Compare: guardMember(b.Epoch, low),
		Success: append(then, clock),
		Failure: []*pb.RequestOp{ifEpoch(b.Epoch, append(refused, clock))},
	}
}

// guardMember holds while the member works in epoch, its fence is below low and nobody holds its lock.
func guardMember(epoch, low int64) []*pb.Compare {
	return []*pb.Compare{
		valueAbove([]byte(record.KeyFence), record.Number(epoch)),
		valueBelow([]byte(record.KeyFence), record.Pair(epoch, low)),
		valueIs([]byte(record.KeyLock), nil),
	}
}

// ifEpoch runs ops unless the member works in another epoch: then nothing may be left there, and the answer says which.
func ifEpoch(epoch int64, ops []*pb.RequestOp) *pb.RequestOp {
	return txnOp(&pb.TxnRequest{
		Compare: []*pb.Compare{
			valueAbove([]byte(record.KeyFence), record.Number(epoch)),
			valueBelow([]byte(record.KeyFence), record.Number(epoch+1)),
		},
		Success: ops,
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte(record.KeyFence)})},
	})
}

func raiseClock(epoch, stamp int64) *pb.RequestOp {
	v := record.Pair(epoch, stamp)
	return txnOp(&pb.TxnRequest{
		Compare: []*pb.Compare{valueBelow([]byte(record.KeyClock), v)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte(record.KeyClock), Value: v})},
	})
}

// Outcome is what became of one operation.
type Outcome struct {
	Landed    bool
	MemberRev int64    // native revision of the member transaction
	Results   []Result // landed: of the effects, in order
	Fenced    bool     // refused by the fence or the lock; otherwise by a guard of its own:
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
		for i := range outs {
			outs[i] = Outcome{Fenced: true, MemberRev: rev}
		}
		return outs, nil
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
