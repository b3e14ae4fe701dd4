package translate

import (
	"bytes"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// Range is a range of keys in etcd's convention.
type Range = keyrange.Range

// Plan is what a validated transaction may touch, whatever branches run. It is immutable.
type Plan struct {
	Req *pb.TxnRequest

	Keys      [][]byte // every single key that is compared, put or deleted, in order, each once
	Compared  []Range  // ranges that are compared
	Deleted   []Range  // ranges that are deleted
	Members   []int    // members that all of the above lie on, sorted
	Writes    bool     // some branch has a put or a delete
	NeedValue bool     // evaluating takes values, not only headers: a value compare, IgnoreValue; or an exact version, see blind
	Leases    []int64  // leases that some branch attaches keys to, each once

	// blind: one unconditional put. It may land on top of puts that its writer does not know of (see State.NativeMod),
	// which leaves the writer with a lower bound of the key's version.
	blind bool

	absent map[string]struct{} // see DemandsAbsent; nil: the compares are few
}

// NewPlan analyses a transaction that validate.Txn has accepted.
func NewPlan(req *pb.TxnRequest, r *ring.Ring) *Plan {
	p := &Plan{Req: req}
	p.walk(req)
	slices.SortFunc(p.Keys, bytes.Compare)
	p.Keys = slices.CompactFunc(p.Keys, bytes.Equal)
	p.Leases = distinct(p.Leases)
	if len(req.Compare) > few {
		p.absent = map[string]struct{}{}
		for _, c := range req.Compare {
			if demandsAbsent(c) {
				p.absent[string(c.Key)] = struct{}{}
			}
		}
	}
	p.Members = p.members(r)
	p.blind = len(req.Compare) == 0 && len(req.Success) == 1 && isPlainPut(req.Success[0].GetRequestPut())
	return p
}

func isPlainPut(put *pb.PutRequest) bool {
	return put != nil && !put.IgnoreValue && !put.IgnoreLease
}

// Exclusive reports whether the transaction needs the whole member at its stamp: it compares or deletes ranges.
func (p *Plan) Exclusive() bool { return len(p.Compared) > 0 || len(p.Deleted) > 0 }

// Blind reports whether the transaction is one unconditional put.
func (p *Plan) Blind() bool { return p.blind }

func (p *Plan) walk(req *pb.TxnRequest) {
	for _, c := range req.Compare {
		p.NeedValue = p.NeedValue || c.Target == pb.Compare_VALUE || c.Target == pb.Compare_VERSION && c.GetVersion() > 0
		if len(c.RangeEnd) > 0 {
			if k, e, empty := validate.Clip(c.Key, c.RangeEnd); !empty {
				p.Compared = append(p.Compared, keyrange.Of(k, e))
			}
			continue
		}
		p.Keys = append(p.Keys, c.Key)
	}
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			p.walkOp(op)
		}
	}
}

func (p *Plan) walkOp(op *pb.RequestOp) {
	switch {
	case op.GetRequestPut() != nil:
		put := op.GetRequestPut()
		p.Writes = true
		p.NeedValue = p.NeedValue || put.IgnoreValue
		p.Keys = append(p.Keys, put.Key)
		if put.Lease != 0 {
			p.Leases = append(p.Leases, put.Lease)
		}
	case op.GetRequestDeleteRange() != nil:
		d := op.GetRequestDeleteRange()
		p.Writes = true
		if len(d.RangeEnd) == 0 {
			p.Keys = append(p.Keys, d.Key)
		} else if k, e, empty := validate.Clip(d.Key, d.RangeEnd); !empty {
			p.Deleted = append(p.Deleted, keyrange.Of(k, e))
		}
	case op.GetRequestTxn() != nil:
		p.walk(op.GetRequestTxn())
	}
}

func (p *Plan) members(r *ring.Ring) []int {
	var ms []int
	for _, k := range p.Keys {
		if m := r.MemberOf(k); !slices.Contains(ms, m) {
			ms = append(ms, m)
		}
	}
	for _, rs := range [][]Range{p.Compared, p.Deleted} {
		for _, x := range rs {
			for _, m := range r.MembersOf(x.Key, x.End) {
				if !slices.Contains(ms, m) {
					ms = append(ms, m)
				}
			}
		}
	}
	slices.Sort(ms)
	return ms
}

// AlwaysWrites reports whether the transaction puts something whatever the state is, at a revision of its own and in one round.
// What does not may turn out to need no stamp.
func (p *Plan) AlwaysWrites() bool {
	var deletes cover
	return alwaysPuts(p.Req) && noDoubts(p.Req, &deletes) && !putsAny(p.Req, &deletes)
}

// alwaysPuts reports whether a put is in all branches that may run.
func alwaysPuts(req *pb.TxnRequest) bool {
	puts := func(op *pb.RequestOp) bool {
		return op.GetRequestPut() != nil || op.GetRequestTxn() != nil && alwaysPuts(op.GetRequestTxn())
	}
	return slices.ContainsFunc(req.Success, puts) && (len(req.Compare) == 0 || slices.ContainsFunc(req.Failure, puts))
}

// noDoubts reports whether nothing can fail that depends on the state. It collects what is deleted.
func noDoubts(req *pb.TxnRequest, deletes *cover) bool {
	for _, op := range slices.Concat(req.Success, req.Failure) {
		switch {
		case op.GetRequestPut() != nil && !isPlainPut(op.GetRequestPut()), op.GetRequestRange().GetRevision() != 0:
			return false
		case op.GetRequestDeleteRange() != nil:
			deletes.add(keyrange.Of(op.GetRequestDeleteRange().Key, op.GetRequestDeleteRange().RangeEnd))
		case op.GetRequestTxn() != nil && !noDoubts(op.GetRequestTxn(), deletes):
			return false
		}
	}
	return true
}

// putsAny reports whether some branch puts one of the keys.
func putsAny(req *pb.TxnRequest, keys *cover) bool {
	return slices.ContainsFunc(slices.Concat(req.Success, req.Failure), func(op *pb.RequestOp) bool {
		return op.GetRequestPut() != nil && keys.has(op.GetRequestPut().Key) || op.GetRequestTxn() != nil && putsAny(op.GetRequestTxn(), keys)
	})
}

// DemandsAbsent reports whether a compare of the outer level holds only while key is absent.
func (p *Plan) DemandsAbsent(key []byte) bool {
	if p.absent != nil {
		_, demanded := p.absent[string(key)]
		return demanded
	}
	return slices.ContainsFunc(p.Req.Compare, func(c *pb.Compare) bool { return bytes.Equal(c.Key, key) && demandsAbsent(c) })
}

func demandsAbsent(c *pb.Compare) bool {
	if c.Result != pb.Compare_EQUAL || len(c.RangeEnd) > 0 {
		return false
	}
	switch c.Target {
	case pb.Compare_MOD, pb.Compare_CREATE, pb.Compare_VERSION:
		return c.GetModRevision() == 0 && c.GetCreateRevision() == 0 && c.GetVersion() == 0
	}
	return false
}

// Serializable reports whether every read of the transaction is, as etcd defines it: then it may be answered from any
// closed revision. A transaction inside it makes it linearizable.
func (p *Plan) Serializable() bool {
	for _, ops := range [][]*pb.RequestOp{p.Req.Success, p.Req.Failure} {
		for _, op := range ops {
			if r := op.GetRequestRange(); r == nil || !r.Serializable {
				return false
			}
		}
	}
	return true
}

// Size is about what the transaction's own bytes add to a request.
func (p *Plan) Size() int {
	n := 0
	for _, k := range p.Keys {
		n += 3 * len(k) // in a put, a compare and the refusal's read
	}
	return n + valueBytes(p.Req)
}

// long is what keys may have together before they count in a request.
const long = 64 << 10

// LongKeys reports whether it may be for its keys that the transaction does not fit into a request: they stand in it twice or more.
// Under locks they stand in each request once.
func (p *Plan) LongKeys() bool {
	n := 0
	for _, k := range p.Keys {
		n += len(k)
	}
	return n > long
}

func valueBytes(req *pb.TxnRequest) int {
	n := 0
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			switch {
			case op.GetRequestPut() != nil:
				n += len(op.GetRequestPut().Value)
			case op.GetRequestTxn() != nil:
				n += valueBytes(op.GetRequestTxn())
			}
		}
	}
	return n
}
