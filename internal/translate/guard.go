package translate

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// State is what is known of one key on its member.
type State struct {
	KV           *mvccpb.KeyValue // user's view; nil: absent
	NativeMod    int64            // native ModRevision of a present key; 0 lets a blind put go over other writers' puts
	NativeCreate int64            // native CreateRevision of a present key
	HasValue     bool             // KV.Value is the value (a cached header has none)
}

// ErrStale reports a state that is newer than the stamp: the stamp cannot land, another one must be taken.
var ErrStale = errors.New("state is newer than the stamp")

// Guarded is one operation of a member transaction: what lands at Stamp if its guards hold.
type Guarded struct {
	Stamp int64
	Txn   *pb.TxnRequest // the guards and the effects; see nested
	Names []manifest.Name
	Slots []int    // slots whose clocks it sets; of all operations of a member transaction they are disjoint
	Below []int    // slots whose clocks must be below the stamp; Slots are among them
	keys  [][]byte // pinned keys, in the order of the refusal's reads
	write int      // effects that answer the user, at the front of Success
	index int      // in its member transaction
	read  bool     // built by Read: it takes a transaction of its own
}

// touch is what a run does to one key.
type touch struct {
	key          []byte
	put, deleted bool
}

func (r *Run) touched() []touch {
	ts := make([]touch, 0, len(r.Steps)+len(r.Compared))
	places := finder[string]{}
	at := func(key []byte) *touch {
		i, added := places.find(string(key))
		if added {
			ts = append(ts, touch{key: key})
		}
		return &ts[i]
	}
	for _, s := range r.Steps {
		switch {
		case s.Put != nil:
			at(s.Put.Key).put = true
		case s.Delete != nil && len(s.Delete.RangeEnd) == 0:
			at(s.Delete.Key).deleted = true
		}
	}
	for _, k := range r.Compared {
		at(k)
	}
	return ts
}

// Guard builds the operation that applies run at stamp, beside others (Exclusive is alone). state must hold every key that
// the run touches, as the run was evaluated on it: that is what is pinned. index is the operation's in its member
// transaction. ErrStale: take a newer stamp. ErrRounds: lock the keys.
func (p *Plan) Guard(run *Run, state func(key []byte) State, stamp int64, index int, slotOf func([]byte) int) (*Guarded, error) {
	if run.Rounds() {
		return nil, ErrRounds
	}
	g := &Guarded{Stamp: stamp, Txn: &pb.TxnRequest{}, index: index}
	be := record.Number(stamp)
	touched := run.touched()
	g.Txn.Compare = make([]*pb.Compare, 0, 3*len(touched))
	g.keys = make([][]byte, 0, len(touched))
	var set finder[int]
	below := finder[int]{names: make([]int, 0, len(touched))}
	for _, t := range touched {
		s := slotOf(t.key)
		if _, added := below.find(s); added {
			g.Txn.Compare = append(g.Txn.Compare, request.ValueBelow(record.SlotKey(s), be))
		}
		if !t.put { // a key that is put has the stamp in its header
			set.find(s)
		}
		var err error
		if g.Txn.Compare, err = p.pin(g.Txn.Compare, t.key, state(t.key), stamp, be); err != nil {
			return nil, err
		}
		g.keys = append(g.keys, t.key)
	}
	g.Txn.Compare = run.pinLeases(g.Txn.Compare)
	g.Txn.Success = run.effects(state, stamp, len(set.names)+len(touched))
	g.write = len(g.Txn.Success)
	g.Txn.Success = run.attach(g.Txn.Success, touched, state)
	for _, s := range set.names {
		g.Txn.Success = append(g.Txn.Success, request.Put(&pb.PutRequest{Key: record.SlotKey(s), Value: be}))
	}
	g.Slots, g.Below, g.Names = set.names, below.names, names(touched, slotOf)
	return g, nil
}

// nested is the operation as a transaction of its own, with a manifest of its own in each branch: refused, it tells the pinned keys'
// states.
func (g *Guarded) nested() *pb.TxnRequest {
	if g.read {
		return g.Txn
	}
	t := &pb.TxnRequest{
		Compare: g.Txn.Compare,
		Success: append(slices.Clip(g.Txn.Success), noteNested(g.index, g.landed())),
		Failure: make([]*pb.RequestOp, 0, 1+len(g.keys)),
	}
	t.Failure = append(t.Failure, noteNested(g.index, g.refused(manifest.Pinned)))
	for _, k := range g.keys {
		t.Failure = append(t.Failure, request.Range(&pb.RangeRequest{Key: k}))
	}
	return t
}

// landed and refused are what a manifest says of the operation.
func (g *Guarded) landed() manifest.Entry {
	return manifest.Entry{Stamp: g.Stamp, Kind: manifest.Landed, Names: g.Names}
}

func (g *Guarded) refused(kind manifest.Kind) manifest.Entry {
	return manifest.Entry{Stamp: g.Stamp, Kind: kind}
}

// pin appends what holds exactly while the key's state is the known one, and its stamp below the operation's.
func (p *Plan) pin(cs []*pb.Compare, key []byte, s State, stamp int64, be []byte) ([]*pb.Compare, error) {
	switch {
	case s.KV == nil:
		return append(cs, request.CreateIs(key, 0)), nil
	case s.KV.ModRevision >= stamp:
		return nil, ErrStale
	case p.blind && s.NativeMod == 0:
		return append(cs, request.CreateIs(key, s.NativeCreate), request.ValueBelow(key, be)), nil
	}
	return append(cs, request.ModIs(key, s.NativeMod)), nil
}

// effects are the native operations of the run's writes, one for each, in order; there is room for more behind them.
func (r *Run) effects(state func([]byte) State, stamp int64, more int) []*pb.RequestOp {
	ops := make([]*pb.RequestOp, 0, len(r.Steps)+more)
	for _, s := range r.Steps {
		switch {
		case s.Put != nil:
			ops = append(ops, request.Put(storedPut(s.Put, state(s.Put.Key), stamp)))
		case s.Delete != nil:
			ops = append(ops, request.Delete(nativeDelete(s.Delete)))
		}
	}
	return ops
}

// nativeDelete is the user's delete without the reserved names in its range. One of only those stays, as an empty
// range, so that answers stay in step.
func nativeDelete(d *pb.DeleteRangeRequest) *pb.DeleteRangeRequest {
	if len(d.RangeEnd) == 0 {
		return d
	}
	r, empty := userRange(d)
	if empty {
		r = keyrange.Of([]byte(record.FirstUserKey), []byte(record.FirstUserKey))
	}
	return &pb.DeleteRangeRequest{Key: r.Key, RangeEnd: r.End, PrevKv: d.PrevKv}
}

// userRange is the part of a delete's range that users' keys may be in.
func userRange(d *pb.DeleteRangeRequest) (r Range, empty bool) {
	r.Key, r.End, empty = validate.Clip(d.Key, d.RangeEnd)
	return r, empty
}

// storedPut is the user's put with the header in front of the value. The lease is in the header alone: to the member the
// key has none, so the member never deletes it by itself.
func storedPut(put *pb.PutRequest, s State, stamp int64) *pb.PutRequest {
	h := record.Header{Stamp: stamp, Create: stamp, Lease: put.Lease}
	value := put.Value
	if s.KV != nil {
		h.Create = s.KV.CreateRevision
		if put.IgnoreLease {
			h.Lease = s.KV.Lease
		}
		if put.IgnoreValue {
			value = s.KV.Value
		}
	}
	return &pb.PutRequest{Key: put.Key, Value: h.Value(value), PrevKv: put.PrevKv}
}

// Read is a single-key read with a stamp of its own, for fenced reads: it protects what it read like a compare would.
// Its landing answers with the key's state; it is refused when a write at or above the stamp was there before.
func Read(key []byte, stamp int64, index int, slotOf func([]byte) int) *Guarded {
	s := slotOf(key)
	be := record.Number(stamp)
	g := &Guarded{
		Stamp: stamp,
		Names: manifest.Fit([]manifest.Name{{Touch: manifest.Read, Key: key}}, slotOf),
		Slots: []int{s},
		Below: []int{s},
		index: index,
		read:  true,
	}
	set := request.Put(&pb.PutRequest{Key: record.SlotKey(s), Value: be})
	landed, refused := noteNested(index, g.landed()), noteNested(index, g.refused(manifest.Pinned))
	g.Txn = &pb.TxnRequest{
		Compare: []*pb.Compare{request.ValueBelow(record.SlotKey(s), be)},
		Success: []*pb.RequestOp{
			// A key above the stamp makes the read void: absent keys have no value to compare, so they go by CreateRevision.
			request.Txn(&pb.TxnRequest{
				Compare: []*pb.Compare{request.CreateIs(key, 0)},
				Success: []*pb.RequestOp{set, landed},
				Failure: []*pb.RequestOp{request.Txn(&pb.TxnRequest{
					Compare: []*pb.Compare{request.ValueBelow(key, be)},
					Success: []*pb.RequestOp{set, request.Range(&pb.RangeRequest{Key: key}), landed},
					Failure: []*pb.RequestOp{refused},
				})},
			}),
		},
		Failure: []*pb.RequestOp{refused},
	}
	return g
}
