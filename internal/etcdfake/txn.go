package etcdfake

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/validate"
)

// branch says which way a transaction goes; the nested ones follow in order.
type branch struct {
	ok     bool
	nested []*branch
}

// txn checks, decides on the state before it, and then executes in order: all its writes share one revision.
func (s *Server) txn(req *pb.TxnRequest) (*pb.TxnResponse, error) {
	// The reserved names, which only metaetcd itself refuses, are checked last.
	if err := validate.Txn(req, maxTxnOps); err != nil && !errors.Is(err, validate.ErrReservedKey) {
		return nil, err
	}
	way := s.decide(req)
	if err := s.checkOps(req, way); err != nil {
		return nil, err
	}
	x := execution{Server: s, rev: s.rev + 1}
	resp := x.run(req, way)
	x.commit()
	resp.Header = s.header()
	return resp, nil
}

func taken(req *pb.TxnRequest, ok bool) []*pb.RequestOp {
	if ok {
		return req.Success
	}
	return req.Failure
}

func (s *Server) decide(req *pb.TxnRequest) *branch {
	b := &branch{ok: true}
	for _, c := range req.Compare {
		b.ok = b.ok && s.compare(c)
	}
	for _, op := range taken(req, b.ok) {
		if t := op.GetRequestTxn(); t != nil {
			b.nested = append(b.nested, s.decide(t))
		}
	}
	return b
}

// checkOps refuses what cannot be executed. What is missing only on a branch that does not run is no error.
func (s *Server) checkOps(req *pb.TxnRequest, way *branch) error {
	nested := way.nested
	for _, op := range taken(req, way.ok) {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			if err := s.checkRevision(r.RequestRange.Revision); err != nil {
				return err
			}
		case *pb.RequestOp_RequestPut:
			p := r.RequestPut
			if (p.IgnoreValue || p.IgnoreLease) && s.kvs[string(p.Key)] == nil {
				return rpctypes.ErrGRPCKeyNotFound
			}
			if p.Lease != 0 && !s.leases[p.Lease] {
				return rpctypes.ErrGRPCLeaseNotFound
			}
		case *pb.RequestOp_RequestTxn:
			if err := s.checkOps(r.RequestTxn, nested[0]); err != nil {
				return err
			}
			nested = nested[1:]
		}
	}
	return nil
}

func (s *Server) compare(c *pb.Compare) bool {
	keys := s.span(c.Key, c.RangeEnd)
	if len(keys) == 0 {
		return c.Target != pb.Compare_VALUE && holds(c, &mvccpb.KeyValue{})
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !holds(c, s.kvs[key]) })
}

func holds(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var d int
	switch c.Target {
	case pb.Compare_VALUE:
		d = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		d = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		d = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		d = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		d = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_NOT_EQUAL:
		return d != 0
	case pb.Compare_GREATER:
		return d > 0
	case pb.Compare_LESS:
		return d < 0
	}
	return d == 0
}

// execution carries out one transaction.
type execution struct {
	*Server
	rev    int64 // of its writes
	wrote  bool
	events []*mvccpb.Event
	before map[string]*mvccpb.KeyValue // of the keys in events
}

// commit makes the writes a revision, and tells the watchers.
func (x *execution) commit() {
	if !x.wrote {
		return
	}
	x.Server.rev++
	x.past.add(x.Server, x.events)
	for _, seen := range x.watchers {
		seen(x.rev, x.events)
	}
}

// note makes an event of a write. As in etcd, its PrevKv is the pair before the transaction, and a creation has none.
func (x *execution) note(kind mvccpb.Event_EventType, kv, prev *mvccpb.KeyValue) {
	if len(x.watchers) == 0 && x.past == nil {
		return
	}
	key := string(kv.Key)
	if _, again := x.before[key]; !again {
		if x.before == nil {
			x.before = make(map[string]*mvccpb.KeyValue)
		}
		x.before[key] = prev
	}
	ev := &mvccpb.Event{Type: kind, Kv: view(kv)}
	if old := x.before[key]; old != nil && (kind == mvccpb.DELETE || kv.CreateRevision != kv.ModRevision) {
		ev.PrevKv = view(old)
	}
	x.events = append(x.events, ev)
}

func (x *execution) run(req *pb.TxnRequest, way *branch) *pb.TxnResponse {
	resp := &pb.TxnResponse{Succeeded: way.ok}
	nested := way.nested
	for _, op := range taken(req, way.ok) {
		out := &pb.ResponseOp{}
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: x.read(r.RequestRange)}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: x.put(r.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: x.remove(r.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: x.run(r.RequestTxn, nested[0])}
			nested = nested[1:]
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp
}

// opHeader is the header of an operation: as in etcd, it shows the transaction's revision from its first change on.
func (x *execution) opHeader() *pb.ResponseHeader {
	if x.wrote {
		return &pb.ResponseHeader{Revision: x.rev}
	}
	return &pb.ResponseHeader{Revision: x.rev - 1}
}

// read answers in key order: sorting and revision filters are not the fake's business.
func (x *execution) read(req *pb.RangeRequest) *pb.RangeResponse {
	all, kvs := x.at(req.Revision)
	keys := spanOf(all, req.Key, req.RangeEnd)
	resp := &pb.RangeResponse{Header: x.opHeader(), Count: int64(len(keys))}
	if req.CountOnly {
		return resp
	}
	if req.Limit > 0 && int64(len(keys)) > req.Limit {
		keys, resp.More = keys[:req.Limit], true
	}
	for _, key := range keys {
		kv := view(kvs[key])
		if req.KeysOnly {
			kv.Value = nil
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp
}

// view copies a pair for a response. Stored pairs, and their bytes, never change.
func view(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value), Version: kv.Version, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}

func (x *execution) put(req *pb.PutRequest) *pb.PutResponse {
	x.wrote = true
	key, prev := string(req.Key), x.kvs[string(req.Key)]
	kv := &mvccpb.KeyValue{
		Key: []byte(key), Value: bytes.Clone(req.Value), ModRevision: x.rev, CreateRevision: x.rev, Version: 1, Lease: req.Lease,
	}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	} else {
		i, _ := slices.BinarySearch(x.keys, key)
		x.keys = slices.Insert(x.keys, i, key)
	}
	if req.IgnoreValue {
		kv.Value = prev.Value // etcd panics as well when the transaction itself has deleted the key
	}
	if req.IgnoreLease {
		kv.Lease = prev.Lease
	}
	x.kvs[key] = kv
	x.note(mvccpb.PUT, kv, prev)
	resp := &pb.PutResponse{Header: x.opHeader()}
	if req.PrevKv && prev != nil {
		resp.PrevKv = view(prev)
	}
	return resp
}

func (x *execution) remove(req *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	keys := slices.Clone(x.span(req.Key, req.RangeEnd))
	x.wrote = x.wrote || len(keys) > 0
	resp := &pb.DeleteRangeResponse{Header: x.opHeader(), Deleted: int64(len(keys))}
	for _, key := range keys {
		if req.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, view(x.kvs[key]))
		}
		x.note(mvccpb.DELETE, &mvccpb.KeyValue{Key: []byte(key), ModRevision: x.rev}, x.kvs[key])
		delete(x.kvs, key)
		i, _ := slices.BinarySearch(x.keys, key)
		x.keys = slices.Delete(x.keys, i, i+1)
	}
	return resp
}
