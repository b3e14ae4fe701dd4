package translate_test

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/translate"
)

// etcd is the keyspace as the user sees it, with etcd's rules in their plainest form. Pairs are never changed in place.
type etcd map[string]*mvccpb.KeyValue

// run executes a transaction at a revision, etcd's way: all compares on the state before it, then one operation after the
// other. The receiver stays as it is.
func (e etcd) run(req *pb.TxnRequest, rev int64) (after etcd, resp *pb.TxnResponse, err error) {
	x := &execution{before: e, etcd: maps.Clone(e), rev: rev}
	if x.etcd == nil {
		x.etcd = etcd{}
	}
	resp = x.txn(req)
	return x.etcd, resp, x.err
}

func (e etcd) keys(key, end []byte) []string {
	in := func(k string) bool { return translate.Range{Key: key, End: end}.Contains([]byte(k)) }
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e)), func(k string) bool { return !in(k) })
}

func (e etcd) holds(c *pb.Compare) bool {
	keys := e.keys(c.Key, c.RangeEnd)
	if len(keys) == 0 {
		return c.Target != pb.Compare_VALUE && holds(c, &mvccpb.KeyValue{})
	}
	return !slices.ContainsFunc(keys, func(k string) bool { return !holds(c, e[k]) })
}

func holds(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	d := map[pb.Compare_CompareTarget]int{
		pb.Compare_VALUE:   bytes.Compare(kv.Value, c.GetValue()),
		pb.Compare_CREATE:  cmp.Compare(kv.CreateRevision, c.GetCreateRevision()),
		pb.Compare_MOD:     cmp.Compare(kv.ModRevision, c.GetModRevision()),
		pb.Compare_VERSION: cmp.Compare(kv.Version, c.GetVersion()),
		pb.Compare_LEASE:   cmp.Compare(kv.Lease, c.GetLease()),
	}[c.Target]
	return map[pb.Compare_CompareResult]bool{
		pb.Compare_EQUAL: d == 0, pb.Compare_NOT_EQUAL: d != 0, pb.Compare_GREATER: d > 0, pb.Compare_LESS: d < 0,
	}[c.Result]
}

// execution is one transaction of an etcd.
type execution struct {
	before etcd
	etcd
	rev     int64
	changed bool
	err     error
}

func (x *execution) header() *pb.ResponseHeader {
	if x.changed {
		return &pb.ResponseHeader{Revision: x.rev}
	}
	return &pb.ResponseHeader{Revision: x.rev - 1}
}

func (x *execution) txn(req *pb.TxnRequest) *pb.TxnResponse {
	ok := !slices.ContainsFunc(req.Compare, func(c *pb.Compare) bool { return !x.before.holds(c) })
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: ok}
	ops := map[bool][]*pb.RequestOp{true: req.Success, false: req.Failure}[ok]
	for _, op := range ops {
		out := &pb.ResponseOp{}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: x.put(o.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: x.remove(o.RequestDeleteRange)}
		case *pb.RequestOp_RequestRange:
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: x.read(o.RequestRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: x.txn(o.RequestTxn)}
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp
}

func (x *execution) put(r *pb.PutRequest) *pb.PutResponse {
	key, prev := string(r.Key), x.etcd[string(r.Key)]
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: x.rev, ModRevision: x.rev, Version: 1, Lease: r.Lease}
	if (r.IgnoreValue || r.IgnoreLease) && (prev == nil || x.before[key] == nil) {
		x.err = rpctypes.ErrGRPCKeyNotFound
		return nil
	}
	if r.IgnoreValue {
		kv.Value = prev.Value
	}
	if r.IgnoreLease {
		kv.Lease = prev.Lease
	}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	x.etcd[key], x.changed = kv, true
	resp := &pb.PutResponse{Header: x.header()}
	if r.PrevKv {
		resp.PrevKv = prev
	}
	return resp
}

func (x *execution) remove(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	for _, key := range x.keys(r.Key, r.RangeEnd) {
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, x.etcd[key])
		}
		delete(x.etcd, key)
		resp.Deleted, x.changed = resp.Deleted+1, true
	}
	resp.Header = x.header()
	return resp
}

func (x *execution) read(r *pb.RangeRequest) *pb.RangeResponse {
	resp := &pb.RangeResponse{Header: x.header()}
	for _, key := range x.keys(r.Key, r.RangeEnd) {
		resp.Kvs = append(resp.Kvs, x.etcd[key])
	}
	resp.Count = int64(len(resp.Kvs))
	return resp
}

// ranges returns the answers to the ranges in a response, in order.
func ranges(resp *pb.TxnResponse) []*pb.RangeResponse {
	var out []*pb.RangeResponse
	for _, op := range resp.Responses {
		if r := op.GetResponseRange(); r != nil {
			out = append(out, proto.Clone(r).(*pb.RangeResponse))
		}
		if t := op.GetResponseTxn(); t != nil {
			out = append(out, ranges(t)...)
		}
	}
	return out
}
