package conformance

import (
	"fmt"
	"sort"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// revisions is the order-preserving bijection between the revisions of the plain etcd, which are dense, and those of the
// meta cluster, some of which may pass without an event.
type revisions struct {
	base    int64   // the plain revision of meta[0]
	meta    []int64 // strictly increasing
	present int64   // the newest meta revision known, with or without an event; at least the newest of an event
	crowds  []int64 // plain revisions at which there are more keys than usual

	mixed map[int64]bool // plain revisions that may put and delete a key
}

// crowded notes that there are more keys than usual at the newest revision.
func (r *revisions) crowded() { r.crowds = append(r.crowds, r.current()) }

// current is the newest plain revision.
func (r *revisions) current() int64 { return r.base + int64(len(r.meta)) - 1 }

// newest is the meta cluster's revision of the newest event.
func (r *revisions) newest() int64 { return r.meta[len(r.meta)-1] }

// add pairs the next plain revision with a meta revision.
func (r *revisions) add(meta int64) error {
	if meta <= r.newest() {
		return fmt.Errorf("revision %d does not follow %d", meta, r.newest())
	}
	r.meta = append(r.meta, meta)
	return nil
}

// headroom is far more than the revisions that pass without an event during one request.
const headroom = 1000

// toMeta translates a revision that a request names. Revisions before the base are compacted on both sides and stay so; future ones
// stay in the future, also if revisions pass while the request is under way.
func (r *revisions) toMeta(plain int64) int64 {
	switch {
	case plain <= 0:
		return plain
	case plain < r.base:
		return max(1, r.meta[0]-(r.base-plain))
	case plain <= r.current():
		return r.meta[plain-r.base]
	default:
		return r.present + headroom*(plain-r.current())
	}
}

// lower translates a revision that events are wanted from: the next event, whatever its revision turns out to be, is wanted from the
// next revision.
func (r *revisions) lower(plain int64) int64 {
	if plain == r.current()+1 {
		return r.present + 1
	}
	return r.toMeta(plain)
}

// event translates the revision of an event. One that the meta cluster made up becomes negative.
func (r *revisions) event(meta int64) int64 {
	if meta == 0 {
		return 0
	}
	i := sort.Search(len(r.meta), func(i int) bool { return r.meta[i] >= meta })
	if i == len(r.meta) || r.meta[i] != meta {
		return -meta
	}
	return r.base + int64(i)
}

// rank translates the revision of a header: the newest event at or below it.
func (r *revisions) rank(meta int64) int64 {
	i := sort.Search(len(r.meta), func(i int) bool { return r.meta[i] > meta })
	return r.base + int64(i) - 1
}

// request returns a copy of a request to the plain etcd as the meta cluster is to get it.
func (r *revisions) request(req proto.Message) proto.Message {
	req = proto.Clone(req)
	switch req := req.(type) {
	case *pb.RangeRequest:
		r.rangeRequest(req)
	case *pb.TxnRequest:
		r.txnRequest(req)
	case *pb.CompactionRequest:
		req.Revision = r.toMeta(req.Revision)
	case *pb.WatchCreateRequest:
		req.StartRevision = r.lower(req.StartRevision)
	}
	return req
}

func (r *revisions) rangeRequest(req *pb.RangeRequest) {
	for _, rev := range []*int64{&req.Revision, &req.MaxModRevision, &req.MaxCreateRevision} {
		*rev = r.toMeta(*rev)
	}
	for _, rev := range []*int64{&req.MinModRevision, &req.MinCreateRevision} {
		*rev = r.lower(*rev)
	}
}

func (r *revisions) txnRequest(req *pb.TxnRequest) {
	for _, c := range req.Compare {
		switch u := c.TargetUnion.(type) {
		case *pb.Compare_ModRevision:
			u.ModRevision = r.toMeta(u.ModRevision)
		case *pb.Compare_CreateRevision:
			u.CreateRevision = r.toMeta(u.CreateRevision)
		}
	}
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			switch u := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				r.rangeRequest(u.RequestRange)
			case *pb.RequestOp_RequestTxn:
				r.txnRequest(u.RequestTxn)
			}
		}
	}
}

// response translates an answer of the meta cluster, in place, into the plain etcd's revisions.
func (r *revisions) response(resp proto.Message) {
	switch resp := resp.(type) {
	case *pb.PutResponse:
		r.header(resp.Header)
		r.keyValue(resp.PrevKv)
	case *pb.RangeResponse:
		r.header(resp.Header)
		r.keyValues(resp.Kvs)
	case *pb.DeleteRangeResponse:
		r.header(resp.Header)
		r.keyValues(resp.PrevKvs)
	case *pb.CompactionResponse, *pb.LeaseGrantResponse, *pb.LeaseRevokeResponse, *pb.LeaseTimeToLiveResponse, *pb.LeaseLeasesResponse, *pb.LeaseKeepAliveResponse:
		r.header(headerOf(resp))
	case *pb.TxnResponse:
		r.header(resp.Header)
		for _, op := range resp.Responses {
			switch u := op.Response.(type) {
			case *pb.ResponseOp_ResponsePut:
				r.response(u.ResponsePut)
			case *pb.ResponseOp_ResponseRange:
				r.response(u.ResponseRange)
			case *pb.ResponseOp_ResponseDeleteRange:
				r.response(u.ResponseDeleteRange)
			case *pb.ResponseOp_ResponseTxn:
				r.response(u.ResponseTxn)
			}
		}
	}
}

// header leaves a revision of zero, that of a nested transaction, as it is.
func (r *revisions) header(h *pb.ResponseHeader) {
	if h != nil && h.Revision != 0 {
		h.Revision = r.rank(h.Revision)
	}
}

func (r *revisions) keyValues(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		r.keyValue(kv)
	}
}

func (r *revisions) keyValue(kv *mvccpb.KeyValue) {
	if kv != nil {
		kv.CreateRevision = r.event(kv.CreateRevision)
		kv.ModRevision = r.event(kv.ModRevision)
	}
}

// eventOf returns a copy of an event of the meta cluster, which may share it among watches, in the plain etcd's revisions.
func (r *revisions) eventOf(ev *mvccpb.Event) *mvccpb.Event {
	ev = proto.Clone(ev).(*mvccpb.Event)
	r.keyValue(ev.Kv)
	r.keyValue(ev.PrevKv)
	return ev
}
