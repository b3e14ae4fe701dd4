package translate

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// Cross is a transaction whose shares are all locked: nothing that it was evaluated on can change. It is a View.
type Cross struct {
	plan   *Plan
	ring   *ring.Ring
	shares []Share
	locked []*Locked

	states  map[string]State
	ranges  map[string][]*mvccpb.KeyValue // compared, by Range.String
	deleted []map[string]int              // by share: the places of its deleted ranges, by Range.String
}

// NewCross puts together what was read under the locks of the plan's shares.
func (p *Plan) NewCross(r *ring.Ring, shares []Share, locked []*Locked) *Cross {
	x := &Cross{
		plan: p, ring: r, shares: shares, locked: locked,
		states: make(map[string]State, len(p.Keys)), ranges: map[string][]*mvccpb.KeyValue{}, deleted: make([]map[string]int, len(shares)),
	}
	for i, s := range shares {
		for j, k := range s.Keys {
			x.states[string(k)] = locked[i].states[j]
		}
		seen := make(map[string]bool, len(s.Compared)) // a range may be compared several times
		for j, c := range s.Compared {
			if name := c.String(); !seen[name] {
				seen[name] = true
				x.ranges[name] = append(x.ranges[name], locked[i].ranges[j]...)
			}
		}
		x.deleted[i] = make(map[string]int, len(s.Deleted))
		for j, d := range s.Deleted {
			x.deleted[i][d.String()] = j
		}
	}
	return x
}

// Get implements View.
func (x *Cross) Get(key []byte) *mvccpb.KeyValue { return x.states[string(key)].KV }

// Range implements View.
func (x *Cross) Range(r Range) []*mvccpb.KeyValue { return x.ranges[r.String()] }

// Run evaluates the transaction, and reports whether it changes anything.
func (x *Cross) Run() (run *Run, writes bool, err error) {
	if run, err = x.plan.Evaluate(x); err != nil {
		return run, false, err
	}
	empty := map[string]bool{}
	for _, r := range x.plan.Deleted {
		empty[r.String()] = true
	}
	for i, s := range x.shares {
		for j, r := range s.Deleted {
			if x.locked[i].deleted[j].GetCount() > 0 {
				empty[r.String()] = false
			}
		}
	}
	return run, run.WritesBeside(empty, x), nil
}

// Unheld returns the leases that keys keep and that the shares do not hold: what they are was not known before.
func (x *Cross) Unheld(run *Run) []int64 {
	held := make(map[int64]bool, len(x.shares[0].Leases))
	for _, id := range x.shares[0].Leases {
		held[id] = true
	}
	return slices.DeleteFunc(slices.Clone(run.Kept), func(id int64) bool { return held[id] })
}

// Attaches returns etcd's error if the run attaches a key to a lease that has gone, or a key keeps one.
func (x *Cross) Attaches(run *Run) error {
	for _, s := range run.Steps {
		if s.Put == nil {
			continue
		}
		lease := s.Put.Lease
		if s.Put.IgnoreLease {
			lease = x.Get(s.Put.Key).GetLease()
		}
		if i := x.shareOf(s.Put.Key); lease != 0 && !x.locked[i].living[lease] {
			return rpctypes.ErrGRPCLeaseNotFound
		}
	}
	return nil
}

// shareOf returns the index of a key's share.
func (x *Cross) shareOf(key []byte) int {
	m := x.ring.MemberOf(key)
	return slices.IndexFunc(x.shares, func(s Share) bool { return s.Member == m })
}

// Decided is a transaction as it lands at a stamp: Txn on the primary, and with it, by the decision in it, each of Parts
// on its member.
type Decided struct {
	Stamp   int64
	Txn     *pb.TxnRequest
	Parts   []record.DecidedPart
	Results []Result // of the run's writes; what they replaced or removed is not in them
}

// Decide builds what lands when run is decided at the stamp. It fails with etcd's ErrTooManyOps if some part does not keep
// within max-txn-ops: its member would refuse it, and must not once it is decided.
func (x *Cross) Decide(run *Run, h record.Holder, stamp, epoch int64) (*Decided, error) {
	parts, results := x.parts(run, stamp)
	d := &Decided{Stamp: stamp, Results: results}
	for i := 1; i < len(parts); i++ {
		req := parts[i].apply(h, stamp, epoch, len(parts), i)
		if cost(req) > parts[i].share.maxOps {
			return nil, rpctypes.ErrGRPCTooManyOps
		}
		txn, err := proto.Marshal(req)
		if err != nil {
			return nil, err
		}
		d.Parts = append(d.Parts, record.DecidedPart{Member: parts[i].share.Member, Txn: txn})
	}
	d.Txn = parts[0].decide(h, stamp, epoch, d.Parts)
	if cost(d.Txn) > parts[0].share.maxOps {
		return nil, rpctypes.ErrGRPCTooManyOps
	}
	return d, nil
}

// part is what a transaction does on one member.
type part struct {
	share   *Share
	ops     []*pb.RequestOp
	runs    []record.Run
	entries []*pb.RequestOp // of leases
}

func (p *part) add(step, events int, op *pb.RequestOp) {
	if events > 0 {
		p.ops = append(p.ops, op)
		p.runs = append(p.runs, record.Run{Op: step, Events: events})
	}
}

// parts gives every operation of the run to its members, and counts the events that it makes there: all keys are locked,
// so that what there is of them is known.
func (x *Cross) parts(run *Run, stamp int64) ([]part, []Result) {
	parts := make([]part, len(x.shares))
	for i := range x.shares {
		parts[i].share = &x.shares[i]
	}
	of := func(key []byte) *part { return &parts[x.shareOf(key)] }
	there := x.presence()
	results := make([]Result, len(run.Steps))
	nest := run.undoes()
	wrap := func(op *pb.RequestOp) *pb.RequestOp {
		if nest {
			return txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{op}})
		}
		return op
	}
	for i, s := range run.Steps {
		switch {
		case s.Put != nil:
			put := storedPut(s.Put, x.states[string(s.Put.Key)], stamp, run.Recreates(i))
			put.PrevKv = false
			of(s.Put.Key).add(i, 1, wrap(putOp(put)))
			there.set(s.Put.Key, true)
		case s.Delete == nil:
		case len(s.Delete.RangeEnd) == 0:
			n := there.count(s.Delete.Key)
			of(s.Delete.Key).add(i, n, wrap(deleteOp(&pb.DeleteRangeRequest{Key: s.Delete.Key})))
			there.set(s.Delete.Key, false)
			results[i].Deleted = int64(n)
		default:
			k, e, empty := validate.Clip(s.Delete.Key, s.Delete.RangeEnd)
			name := Range{k, e}.String()
			for j := range parts {
				place, concerned := x.deleted[j][name]
				if empty || !concerned {
					continue
				}
				n := there.remove(j, place)
				parts[j].add(i, n, wrap(deleteOp(&pb.DeleteRangeRequest{Key: k, RangeEnd: e})))
				results[i].Deleted += int64(n)
			}
		}
	}
	state := func(key []byte) State { return x.states[string(key)] }
	touched := make([][]touch, len(parts))
	for _, t := range run.touched() {
		i := x.shareOf(t.key)
		touched[i] = append(touched[i], t)
	}
	for i := range parts {
		parts[i].entries = run.attach(nil, touched[i], state)
	}
	return parts, results
}

// frame is what a part leaves behind its operations: the locks are given up, so that nothing below the stamp lands on what
// they held, the mark says which part it is, and the clock is raised.
func (p *part) frame(h record.Holder, stamp, epoch int64, of, index int) []*pb.RequestOp {
	ops := append(p.entries, letGo(h, p.share.Leases)...)
	if p.share.Whole {
		fence := record.Pair(epoch, stamp)
		ops = append(ops, freeMember(), txnOp(&pb.TxnRequest{
			// In a later epoch, nothing below the stamp is left that could land.
			Compare: []*pb.Compare{valueAbove([]byte(record.KeyFence), record.Number(epoch)), valueBelow([]byte(record.KeyFence), fence)},
			Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte(record.KeyFence), Value: fence})},
		}))
	}
	for _, s := range p.share.Slots {
		ops = append(ops, putOp(&pb.PutRequest{Key: record.SlotKey(s), Value: record.Number(stamp)}))
	}
	mark := record.Part{Stamp: stamp, Of: of, Index: index, Runs: p.runs}
	return append(ops, putOp(&pb.PutRequest{Key: record.MarkKey(0), Value: mark.Value()}), raiseClock(epoch, stamp))
}

// apply is guarded by the locks alone: once the transaction is decided, the part belongs here whatever the epoch or the
// fence, and when it is here, the locks are not.
func (p *part) apply(h record.Holder, stamp, epoch int64, of, index int) *pb.TxnRequest {
	ops := append(p.ops, p.frame(h, stamp, epoch, of, index)...)
	return &pb.TxnRequest{Compare: p.share.held(h), Success: grouped(ops, p.share.maxOps)}
}

// decide is the primary's part with the decision, which makes the others' sure.
func (p *part) decide(h record.Holder, stamp, epoch int64, others []record.DecidedPart) *pb.TxnRequest {
	fence := []byte(record.KeyFence)
	held := p.share.held(h)
	cs := append([]*pb.Compare{valueAbove(fence, record.Number(epoch)), valueBelow(fence, record.Pair(epoch, stamp))}, held...)
	ops := append(p.ops, p.frame(h, stamp, epoch, 1+len(others), 0)...)
	if len(others) > 0 {
		d := record.Decision{Stamp: stamp, Parts: others}
		ops = append(ops, putOp(&pb.PutRequest{Key: record.TxnKey(h.ID), Value: d.Value()}))
	}
	why := txnOp(&pb.TxnRequest{
		Compare: held,
		Success: []*pb.RequestOp{markOp(0, stamp, record.Fenced)},
		Failure: []*pb.RequestOp{markOp(0, stamp, record.SlotAhead)},
	})
	return &pb.TxnRequest{
		Compare: cs, Success: grouped(ops, p.share.maxOps),
		Failure: []*pb.RequestOp{ifEpoch(epoch, []*pb.RequestOp{why, raiseClock(epoch, stamp)})},
	}
}

// ErrLost says that somebody took the locks of a transaction: it was given up as its writer's that had gone.
var ErrLost = errors.New("locks were lost")

// Decode reads the primary's answer to Txn. It fails with ErrStale if a fence was in the way of the stamp, and another one
// may be tried; with ErrLost, and with *WrongEpochError.
func (d *Decided) Decode(resp *pb.TxnResponse) error {
	if resp.Succeeded {
		return nil
	}
	if err := wrongEpoch(resp); err != nil {
		return err
	}
	if rs := resp.Responses[0].GetResponseTxn().GetResponses(); len(rs) > 0 && rs[0].GetResponseTxn().GetSucceeded() {
		return ErrStale
	}
	return ErrLost
}
