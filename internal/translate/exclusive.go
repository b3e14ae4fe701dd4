package translate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Exclusive is a transaction that needs the whole member at its stamp: nothing above the stamp landed
// before it, and its fence lets nothing below the stamp land after it. It is alone in its member revision.
type Exclusive struct {
	Epoch, Stamp int64
	Txn          *pb.TxnRequest
	keys         [][]byte
	write        int
}

// Exclude builds the exclusive member transaction for run. ReadRev is the member revision at which the compared ranges
// were read: the guard refuses if anything in them changed since (their keys were put, or some key of the member was deleted).
// closed is a revision that the sender knows to be closed. ErrRounds: lock the member.
func (p *Plan) Exclude(run *Run, state func(key []byte) State, readRev, stamp, epoch, closed int64, slotOf func([]byte) int) (*Exclusive, error) {
	if run.Rounds() {
		return nil, ErrRounds
	}
	x := &Exclusive{Epoch: epoch, Stamp: stamp}
	be := record.Number(stamp)
	cs := append(guardMember(epoch, stamp), request.ValueBelow([]byte(record.KeyClock), record.Pair(epoch, stamp)))
	slots := Range{}
	slots.Key, slots.End = record.SlotRange()
	unlocked := request.ValueBelow(slots.Key, record.Infinity())
	unlocked.RangeEnd = slots.End
	cs = append(cs, unlocked)
	if len(p.Compared) > 0 {
		// Deletes leave their trace in slot clocks, range deletes in the fence, or in the lock that they gave up.
		cs = append(cs, request.ModBelow(slots.Key, slots.End, readRev+1))
		for _, k := range []string{record.KeyFence, record.KeyLock} {
			cs = append(cs, request.ModBelow([]byte(k), nil, readRev+1))
		}
		for _, r := range p.Compared {
			cs = append(cs, request.ModBelow(r.Key, r.End, readRev+1))
		}
	}
	refused := []*pb.RequestOp{Note(manifest.Of(manifest.Pinned, stamp)...), raiseClock(epoch, stamp, closed)}
	for _, t := range run.touched() {
		var err error
		if cs, err = p.pin(cs, t.key, state(t.key), stamp, be); err != nil {
			return nil, err
		}
		x.keys = append(x.keys, t.key)
		refused = append(refused, request.Range(&pb.RangeRequest{Key: t.key}))
	}
	cs = run.pinLeases(cs)
	then := run.effects(state, stamp, 3)
	x.write = len(then)
	then = run.attach(then, run.touched(), state)
	then = append(then,
		request.Put(&pb.PutRequest{Key: []byte(record.KeyFence), Value: record.Pair(epoch, stamp)}),
		request.Put(&pb.PutRequest{Key: []byte(record.KeyClock), Value: record.ClockRecord{Epoch: epoch, Highest: stamp, Closed: closed}.Value()}),
		Note(manifest.Entry{Stamp: stamp, Kind: manifest.Exclusive, Names: run.names(p.Compared, slotOf)}))
	x.Txn = &pb.TxnRequest{Compare: cs, Success: then, Failure: []*pb.RequestOp{ifEpoch(epoch, refused)}}
	return x, nil
}

// Cost is what the transaction takes of a member's max-txn-ops.
func (x *Exclusive) Cost() int { return cost(x.Txn) }

// Decode reads the member's answer: an outcome, or *WrongEpochError.
func (x *Exclusive) Decode(resp *pb.TxnResponse) (Outcome, error) {
	out := Outcome{MemberRev: resp.Header.GetRevision()}
	if resp.Succeeded {
		rs, err := results(resp.Responses, x.write)
		out.Landed, out.Results = true, rs
		return out, err
	}
	if err := wrongEpoch(resp); err != nil {
		return Outcome{}, err
	}
	rs := resp.Responses[0].GetResponseTxn().Responses
	if len(rs) != 2+len(x.keys) {
		return Outcome{}, errShape
	}
	out.Keys, out.States = x.keys, make([]State, len(x.keys))
	for i := range x.keys {
		s, err := StateOf(rs[i+2].GetResponseRange())
		if err != nil {
			return Outcome{}, err
		}
		out.States[i] = s
	}
	return out, nil
}
