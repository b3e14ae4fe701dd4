package translate

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// View is a state of the keyspace in the user's view. Answers are read-only.
type View interface {
	// Get returns the key's pair, nil when absent. Without NeedValue in the plan, values may be missing.
	Get(key []byte) *mvccpb.KeyValue
	// Range returns the pairs of a compared range; it is called with ranges of Plan.Compared only.
	Range(r Range) []*mvccpb.KeyValue
}

// Step is one operation that runs, in etcd's order. Exactly one field is set.
type Step struct {
	Put    *pb.PutRequest
	Delete *pb.DeleteRangeRequest
	Range  *pb.RangeRequest
}

// Run is a transaction evaluated on a view: the branches that run, as etcd's txn path, and their operations.
type Run struct {
	Path     []bool // of each transaction in depth-first order: its compares hold
	Steps    []Step
	Compared [][]byte // single keys compared at the levels that were reached
	Reads    bool     // a step is a Range
	Kept     []int64  // leases that keys have in the view, and that puts keep; each once

	// Records are the run's leases as their records on the member have to stand for it to land.
	// The caller sets it, for all of Leases.
	Records map[int64][]byte

	// See deletes.
	passed  int   // steps that were looked at
	removed cover // what these delete
}

// Evaluate decides the branches on a view, as etcd does: all compares of all levels on the state before the transaction.
// A put that keeps a value or lease of an absent key is rpctypes.ErrGRPCKeyNotFound. So is one whose key an earlier step
// deletes: etcd overlooks that, and every one of its servers panics when it runs the put. With an error comes what of the
// run was found before it.
func (p *Plan) Evaluate(v View) (*Run, error) {
	run := &Run{}
	err := run.add(p.Req, v)
	run.Kept = distinct(run.Kept)
	return run, err
}

func (r *Run) add(req *pb.TxnRequest, v View) error {
	ok := holds(req.Compare, v)
	r.Path = append(r.Path, ok)
	for _, c := range req.Compare {
		if len(c.RangeEnd) == 0 {
			r.Compared = append(r.Compared, c.Key)
		}
	}
	ops := req.Failure
	if ok {
		ops = req.Success
	}
	for _, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			r.Steps = append(r.Steps, Step{Put: o.RequestPut})
			if !o.RequestPut.IgnoreValue && !o.RequestPut.IgnoreLease {
				continue
			}
			kv := v.Get(o.RequestPut.Key)
			if kv == nil || r.deletes(o.RequestPut.Key) {
				return rpctypes.ErrGRPCKeyNotFound
			}
			if o.RequestPut.IgnoreLease {
				r.keep(kv.Lease)
			}
		case *pb.RequestOp_RequestDeleteRange:
			r.Steps = append(r.Steps, Step{Delete: o.RequestDeleteRange})
		case *pb.RequestOp_RequestRange:
			r.Reads = true
			r.Steps = append(r.Steps, Step{Range: o.RequestRange})
		case *pb.RequestOp_RequestTxn:
			if err := r.add(o.RequestTxn, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// deletes reports whether a step that was added deletes the key.
func (r *Run) deletes(key []byte) bool {
	for ; r.passed < len(r.Steps); r.passed++ {
		r.removed.meets(r.Steps[r.passed])
	}
	return r.removed.has(key)
}

// Writes reports whether the run would change anything in the view: it puts, or deletes a key that is there. Range deletes
// count as changes: whether they find anything is not in the view.
func (r *Run) Writes(v View) bool { return r.WritesBeside(nil, v) }

// WritesBeside is Writes with the knowledge of deleted ranges that hold nothing, by Range.String.
func (r *Run) WritesBeside(empty map[string]bool, v View) bool {
	for _, s := range r.Steps {
		switch {
		case s.Put != nil:
			return true
		case s.Delete == nil:
		case len(s.Delete.RangeEnd) == 0:
			if v.Get(s.Delete.Key) != nil {
				return true
			}
		default:
			if x, nothing := userRange(s.Delete); !nothing && !empty[x.String()] {
				return true
			}
		}
	}
	return false
}

// TellsPrevious reports whether the answer holds what a put replaced or a delete removed.
func (r *Run) TellsPrevious() bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool {
		return s.Put != nil && s.Put.PrevKv || s.Delete != nil && s.Delete.PrevKv
	})
}

func holds(cs []*pb.Compare, v View) bool {
	for _, c := range cs {
		if !compareHolds(c, v) {
			return false
		}
	}
	return true
}

func compareHolds(c *pb.Compare, v View) bool {
	var kvs []*mvccpb.KeyValue
	if len(c.RangeEnd) > 0 {
		if k, e, empty := validate.Clip(c.Key, c.RangeEnd); !empty {
			kvs = v.Range(keyrange.Of(k, e))
		}
	} else if kv := v.Get(c.Key); kv != nil {
		kvs = []*mvccpb.KeyValue{kv}
	}
	if len(kvs) == 0 {
		// etcd: a value compare on what is not there never holds, every other target is 0.
		return c.Target != pb.Compare_VALUE && compareKV(c, &mvccpb.KeyValue{})
	}
	for _, kv := range kvs {
		if !compareKV(c, kv) {
			return false
		}
	}
	return true
}

func compareKV(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var n int
	switch c.Target {
	case pb.Compare_VALUE:
		n = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		n = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		n = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		n = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		n = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return n == 0
	case pb.Compare_NOT_EQUAL:
		return n != 0
	case pb.Compare_GREATER:
		return n > 0
	case pb.Compare_LESS:
		return n < 0
	}
	return true
}
