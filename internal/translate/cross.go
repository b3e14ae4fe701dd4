package translate

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
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
// on its member; those of one member in their order.
type Decided struct {
	Stamp   int64
	Txn     *pb.TxnRequest
	Parts   []record.DecidedPart
	Results []Result // of the run's writes; what they replaced or removed is not in them
}

// Decide builds what lands when run is decided at the stamp. closed is a revision that the sender knows to be closed. It fails with etcd's ErrTooManyOps if some part does not keep
// within max-txn-ops: its member would refuse it, and must not once it is decided.
func (x *Cross) Decide(run *Run, h record.Holder, stamp, epoch, closed int64) (*Decided, error) {
	parts, results := x.parts(run, stamp)
	at := landing{stamp: stamp, epoch: epoch, closed: closed, slotOf: x.ring.Slot}
	for i := range parts {
		at.add(x.ring.Number(parts[i].share.Member))
	}
	d := &Decided{Stamp: stamp, Results: results}
	for i := 1; i < len(parts); i++ {
		req := parts[i].apply(h, at, i)
		if cost(req) > parts[i].share.maxOps {
			return nil, rpctypes.ErrGRPCTooManyOps
		}
		txn, err := proto.Marshal(req)
		if err != nil {
			return nil, err
		}
		d.Parts = append(d.Parts, record.DecidedPart{Member: x.ring.Number(parts[i].share.Member), Txn: txn})
	}
	d.Txn = parts[0].decide(h, at, d.Parts)
	if cost(d.Txn) > parts[0].share.maxOps {
		return nil, rpctypes.ErrGRPCTooManyOps
	}
	return d, nil
}

// work is what a transaction does on one member, in one part or, if it puts and deletes a key, in several, one after the other.
type work struct {
	share   *Share
	rounds  rounds
	parts   []part
	entries []*pb.RequestOp // of leases
}

// part is what a transaction does in one revision of a member. The last of the member gives up the locks.
type part struct {
	share *Share
	round int
	last  bool
	ops   []*pb.RequestOp
	names []manifest.Name // of the operations, in order
}

// landing is what all parts of a transaction have in common.
type landing struct {
	stamp, epoch, closed int64
	shares               []manifest.Share
	slotOf               func(key []byte) int
}

// add takes in the next part, which a member of that number takes.
func (l *landing) add(member int) {
	if n := len(l.shares); n > 0 && l.shares[n-1].Member == member {
		l.shares[n-1].Parts++
		return
	}
	l.shares = append(l.shares, manifest.Share{Member: member, Parts: 1})
}

// add puts an operation, which is of a step of the run, into one of the member's parts. The events that it makes go by its name.
func (w *work) add(round, step int, n manifest.Name, op *pb.RequestOp) {
	for len(w.parts) <= round {
		w.parts = append(w.parts, part{share: w.share, round: len(w.parts)})
	}
	p := &w.parts[round]
	p.ops = append(p.ops, op)
	n.Op = step
	p.names = append(p.names, n)
}

// remove is add for a delete.
func (w *work) remove(x Range, step, events int) {
	if events > 0 {
		w.add(w.rounds.remove(x), step, rangeName(manifest.Deleted, x), request.Delete(&pb.DeleteRangeRequest{Key: x.Key, RangeEnd: x.End}))
	}
}

// finished returns the parts of all members, in the order in which each member has to take its own.
func finished(works []work) (parts []part) {
	for _, w := range works {
		if len(w.parts) == 0 {
			w.parts = []part{{share: w.share}}
		}
		last := &w.parts[len(w.parts)-1]
		last.last, last.ops = true, append(last.ops, w.entries...)
		parts = append(parts, w.parts...)
	}
	return parts
}

// parts gives every operation of the run to its members, and counts the events that it makes there: all keys are locked,
// so that what there is of them is known.
func (x *Cross) parts(run *Run, stamp int64) ([]part, []Result) {
	works := make([]work, len(x.shares))
	for i := range x.shares {
		works[i].share = &x.shares[i]
	}
	of := func(key []byte) *work { return &works[x.shareOf(key)] }
	there := x.presence()
	results := make([]Result, len(run.Steps))
	for i, s := range run.Steps {
		switch {
		case s.Put != nil:
			state := x.states[string(s.Put.Key)]
			if there.count(s.Put.Key) == 0 {
				state = State{} // deleted before, or never there: the put creates it
			}
			put := storedPut(s.Put, state, stamp)
			put.PrevKv = false
			w := of(s.Put.Key)
			w.add(w.rounds.put(s.Put.Key), i, manifest.Name{Touch: manifest.Put, Key: s.Put.Key}, request.Put(put))
			there.set(s.Put.Key, true)
		case s.Delete == nil:
		case len(s.Delete.RangeEnd) == 0:
			n := there.count(s.Delete.Key)
			of(s.Delete.Key).remove(Range{Key: s.Delete.Key}, i, n)
			there.set(s.Delete.Key, false)
			results[i].Deleted = int64(n)
		default:
			r, empty := userRange(s.Delete)
			name := r.String()
			for j := range works {
				place, concerned := x.deleted[j][name]
				if empty || !concerned {
					continue
				}
				n := there.remove(j, place)
				works[j].remove(r, i, n)
				results[i].Deleted += int64(n)
			}
		}
	}
	state := func(key []byte) State { return x.states[string(key)] }
	touched := make([][]touch, len(works))
	for _, t := range run.touched() {
		i := x.shareOf(t.key)
		touched[i] = append(touched[i], t)
	}
	for i := range works {
		works[i].entries = run.attach(nil, touched[i], state)
	}
	return finished(works), results
}

// frame is what a part leaves behind its operations: the manifest that says which part it is, and the clock. The last part of a
// member gives up the locks, so that nothing below the stamp lands on what they held; the others leave them to the next.
func (p *part) frame(h record.Holder, at landing, index int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	if p.last {
		ops = p.share.release(h, at.stamp, at.epoch)
	} else {
		ops = p.share.lockFor(h.At(p.round + 1))
	}
	e := manifest.Entry{
		Stamp: at.stamp, Kind: manifest.Parted, Part: manifest.Part{Index: index, Shares: at.shares}, Names: manifest.Fit(p.names, at.slotOf),
	}
	return append(ops, Note(e), raiseClock(at.epoch, at.stamp, at.closed))
}

// apply is guarded by the locks alone: once the transaction is decided, the part belongs here whatever the epoch or the
// fence, and when it is here, the locks are not, or not for it.
func (p *part) apply(h record.Holder, at landing, index int) *pb.TxnRequest {
	ops := append(p.ops, p.frame(h, at, index)...)
	return &pb.TxnRequest{Compare: p.share.held(h.At(p.round)), Success: grouped(ops, p.share.maxOps)}
}

// decide is the first part with the decision, which makes the others sure.
func (p *part) decide(h record.Holder, at landing, others []record.DecidedPart) *pb.TxnRequest {
	fence := []byte(record.KeyFence)
	held := p.share.held(h)
	cs := append([]*pb.Compare{request.ValueAbove(fence, record.Number(at.epoch)), request.ValueBelow(fence, record.Pair(at.epoch, at.stamp))}, held...)
	ops := append(p.ops, p.frame(h, at, 0)...)
	if len(others) > 0 {
		d := record.Decision{Stamp: at.stamp, Parts: others}
		ops = append(ops, request.Put(&pb.PutRequest{Key: record.TxnKey(h.ID), Value: d.Value()}))
	}
	why := request.Txn(&pb.TxnRequest{
		Compare: held,
		Success: []*pb.RequestOp{Note(manifest.Of(manifest.Fenced, at.stamp)...)},
		Failure: []*pb.RequestOp{Note(manifest.Of(manifest.Pinned, at.stamp)...)},
	})
	return &pb.TxnRequest{
		Compare: cs, Success: grouped(ops, p.share.maxOps),
		Failure: []*pb.RequestOp{ifEpoch(at.epoch, []*pb.RequestOp{why, raiseClock(at.epoch, at.stamp, at.closed)})},
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
