package translate_test

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/validate"
)

// alphabet has the lowest key that a user may have, and more keys than there are slots.
var alphabet = []string{"\x01", "a", "b", "c", "d", "e", "f"}

var leases = []int64{0, 0, 7, 8}

// txns generates transactions that etcd accepts. Those with ranged need an exclusive run.
type txns struct {
	t      *rapid.T
	e      etcd // what compares are aimed at
	ranged bool
}

// draw returns nil when etcd would refuse what came out.
func (g txns) draw() *pb.TxnRequest {
	var req *pb.TxnRequest
	switch rapid.IntRange(0, 9).Draw(g.t, "shape") {
	case 0:
		req = &pb.TxnRequest{Success: []*pb.RequestOp{g.put()}}
	case 1, 2:
		req = put(string(g.key()), "blind")
	case 3:
		req = g.undo()
	default:
		req = g.txn(0)
	}
	if validate.Txn(req, 128) != nil {
		return nil
	}
	return req
}

func (g txns) flag(name string) bool { return rapid.Bool().Draw(g.t, name) }
func (g txns) key() []byte           { return []byte(rapid.SampledFrom(alphabet).Draw(g.t, "key")) }

func (g txns) txn(depth int) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for range rapid.IntRange(0, 2).Draw(g.t, "compares") {
		req.Compare = append(req.Compare, g.compare())
	}
	for range rapid.IntRange(0, 3).Draw(g.t, "success") {
		req.Success = append(req.Success, g.op(depth))
	}
	for range rapid.IntRange(0, 2).Draw(g.t, "failure") {
		req.Failure = append(req.Failure, g.op(depth))
	}
	return req
}

func (g txns) op(depth int) *pb.RequestOp {
	switch n := rapid.IntRange(0, 9).Draw(g.t, "op"); {
	case n < 4:
		return g.put()
	case n < 7:
		return g.remove()
	case n < 8 || depth == 2:
		r := &pb.RangeRequest{Key: g.key()}
		if g.flag("range") {
			r.RangeEnd = []byte{0}
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	}
	return nested(g.txn(depth + 1))
}

func nested(req *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: req}}
}

func (g txns) put() *pb.RequestOp {
	p := &pb.PutRequest{Key: g.key(), PrevKv: g.flag("prev")}
	if p.IgnoreValue = rapid.IntRange(0, 3).Draw(g.t, "keep value") == 0; !p.IgnoreValue {
		p.Value = []byte(rapid.SampledFrom([]string{"", "v", "w"}).Draw(g.t, "value"))
	}
	if p.IgnoreLease = rapid.IntRange(0, 3).Draw(g.t, "keep lease") == 0; !p.IgnoreLease {
		p.Lease = rapid.SampledFrom(leases).Draw(g.t, "lease")
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}
}

func (g txns) remove() *pb.RequestOp {
	d := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.flag("prev")}
	switch n := rapid.IntRange(0, 9).Draw(g.t, "end"); {
	case n == 0: // holds only reserved names
		d.Key, d.RangeEnd = []byte{0}, []byte{1}
	case n == 1: // holds nothing
		d.RangeEnd = []byte("\x01")
	case n < 6 && g.ranged:
		d.RangeEnd = rapid.SampledFrom([][]byte{{0}, []byte("c"), []byte("e")}).Draw(g.t, "to")
		if g.flag("from the first") {
			d.Key = []byte{0}
		}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
}

// undo puts keys in one nested transaction and deletes some in a later one, which etcd overlooks.
func (g txns) undo() *pb.TxnRequest {
	put, del := &pb.TxnRequest{Success: []*pb.RequestOp{g.put()}}, &pb.TxnRequest{Success: []*pb.RequestOp{g.remove()}}
	if g.flag("same key") {
		del.Success[0].GetRequestDeleteRange().Key = put.Success[0].GetRequestPut().Key
	}
	req := &pb.TxnRequest{Success: []*pb.RequestOp{nested(put), nested(del)}}
	if g.flag("from a key on") && g.ranged { // which etcd takes for an empty interval
		d := g.remove()
		d.GetRequestDeleteRange().RangeEnd = []byte{0}
		req.Success = append([]*pb.RequestOp{d}, req.Success...)
	}
	return req
}

func (g txns) compare() *pb.Compare {
	c := &pb.Compare{
		Key:    g.key(),
		Target: pb.Compare_CompareTarget(rapid.IntRange(0, 4).Draw(g.t, "target")),
		Result: pb.Compare_CompareResult(rapid.IntRange(0, 3).Draw(g.t, "result")),
	}
	switch n := rapid.IntRange(0, 5).Draw(g.t, "end"); {
	case n == 0:
		c.Key, c.RangeEnd = []byte{0}, []byte{1}
	case n < 3 && g.ranged:
		c.RangeEnd = rapid.SampledFrom([][]byte{{0}, []byte("c"), []byte("e")}).Draw(g.t, "to")
	}
	kv := g.e[string(c.Key)] // may be nil
	near := rapid.SampledFrom([]int64{0, 0, 0, 1, -1}).Draw(g.t, "off")
	if g.flag("zero") {
		kv, near = nil, 0
	}
	switch c.Target {
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: rapid.SampledFrom([][]byte{kv.GetValue(), nil, []byte("v")}).Draw(g.t, "to value")}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: kv.GetCreateRevision() + near}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: kv.GetModRevision() + near}
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: kv.GetVersion() + near}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: kv.GetLease()}
	}
	return c
}
