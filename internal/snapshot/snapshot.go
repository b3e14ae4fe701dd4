// Package snapshot answers a range request at a revision R of the meta cluster from what its members hold.
//
// The order on a member is not stamp order, so no member revision shows exactly the stamps up to
// R. The snapshot of a member is a base and a tail: the base is read at lo, the last member revision
// before any stamp above R; the tail are the events that the member committed after lo with a stamp of at most
// R, in member order. Laid over the base (a put sets, a delete removes) the tail gives the member's keys at R:
// the stamps of one key grow in member order, so the tail holds the whole history of a key between lo and R,
// and every key without an event in the tail is at R what it was at lo. Because no event of the key between lo
// and the tail's first one is missing, that event's PrevKv says whether the base has the key.
//
// Members hold disjoint sets of keys. The merged keyspace is the union of their keys, and a range request on it
// is answered as etcd 3.7.3's executeRange answers it on one store.
//
// # Limits
//
// A limited request reads limited bases. Let w = limit+1 be the number of keys that decide the answer (the last
// one decides More), and let the tail of a member remove d keys of its base. Asked for w+d keys, a member has shown enough:
//
// Merge then lists, of each member, C: the returned base keys that the tail does not remove, and every key that
// the tail leaves behind, also behind the point where the base was cut. C is part of S, the member's keys at R.
// What S has beyond C are base keys behind the cut. If there are any, the base returned w+d keys, of which the
// tail removed at most d: C has at least w keys in front of the cut. So at least w keys of C precede every key of
// S that C misses, hence w keys of the union of all Cs precede it, and it is not among the first w keys of the
// merged range. The first w keys of the union of all Cs are the first w keys of the union of all S.
//
// But of n members that the keys are spread over evenly, each holds about w/n of the first w. So Plan asks for a share
// of w, with room for chance, and Rest for what that has hidden. Let L be the last base key of a member whose base was
// cut, and k the number of keys of the union of all Cs up to L. With k >= w the argument above holds for this member.
// Else Rest asks it for the w-k+d base keys behind L. At least w-k of them remain, so w keys of the union are again in
// front of what is still hidden. More keys of other members only make k larger.
//
// The package is pure: it knows no client, no clock and no goroutine.
package snapshot

import (
	"bytes"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Part is one member's share of a snapshot.
type Part struct {
	Kvs   []*mvccpb.KeyValue // the base: what the member answered to Plan's request, in key order and in the user's view
	Count int64              // the base's number of keys in the range, as the member answered it
	More  bool               // the base was cut: so the member answered
	Tail  []*mergedlog.Event // member order, only keys of the range; never changed
}

// Plan returns the native request for the base of one of the given number of members. The range is taken as it is; the
// caller clips it to user keys and sets Revision and Serializable, and KeysOnly where Levels allows it. Sorting and filters stay
// behind, because to the member they mean member revisions and stored values.
func Plan(req *pb.RangeRequest, tail []*mergedlog.Event, members int) *pb.RangeRequest {
	native := &pb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd, CountOnly: req.CountOnly}
	if w := window(req); w > 0 && !req.CountOnly {
		native.Limit = saturatingAdd(share(w, members), removed(tail))
	}
	return native
}

// share is how many of the first w keys one of several members is asked for at first: its mean and a quarter, and a few
// more. A member that holds more of them than that, by chance or because the sharding keeps neighbours together, is
// asked twice.
func share(w int64, members int) int64 {
	const few = 8
	if members < 2 {
		return w
	}
	mean := w / int64(members)
	return min(w, mean+mean/4+few)
}

// Rest returns native requests for the base keys that are still to be read before Merge, in the order of the parts, nil
// for those that need none; or nil if none does. What comes back is appended to the part's Kvs; its Count is none of the
// whole range. After that nothing is missing.
//
// The error is ErrOverlap, or nil.
func Rest(req *pb.RangeRequest, parts []Part) ([]*pb.RangeRequest, error) {
	w := window(req)
	if w == 0 || req.CountOnly || len(parts) < 2 || !slices.ContainsFunc(parts, func(p Part) bool { return p.More }) {
		return nil, nil
	}
	first, _, err := collect(parts, w)
	if err != nil {
		return nil, err
	}
	var rest []*pb.RangeRequest
	for i, p := range parts {
		if !p.More {
			continue
		}
		last := p.Kvs[len(p.Kvs)-1].Key
		k, found := slices.BinarySearchFunc(first, last, func(kv *mvccpb.KeyValue, key []byte) int { return bytes.Compare(kv.Key, key) })
		if found {
			k++
		}
		if int64(k) >= w {
			continue
		}
		if rest == nil {
			rest = make([]*pb.RangeRequest, len(parts))
		}
		rest[i] = &pb.RangeRequest{Key: append(slices.Clip(last), 0), RangeEnd: req.RangeEnd, Limit: saturatingAdd(w-int64(k), removed(p.Tail))}
	}
	return rest, nil
}

// Merge answers req from the parts of all members concerned, after Rest: Kvs, More and Count as etcd would fill them on the
// merged keyspace. The header is the caller's. Pairs that etcd leaves in any order, because what they are sorted
// by is equal, come in key order.
//
// Merge takes over the base: the answer may use the slices and pairs of Kvs, reordered and, for KeysOnly,
// stripped of their values. Pairs that come from a tail are copies that share the bytes of key and value.
//
// The error is ErrOverlap, or nil.
func Merge(req *pb.RangeRequest, parts []Part) (*pb.RangeResponse, error) {
	resp, err := Select(req, parts)
	if err == nil && req.KeysOnly {
		Strip(resp.Kvs, req.SortTarget)
	}
	return resp, err
}

// Select is Merge of parts whose bases show no more than Levels demands. The pairs are as the parts have them, those that are
// Unread included, also for KeysOnly.
func Select(req *pb.RangeRequest, parts []Part) (*pb.RangeResponse, error) {
	if req.CountOnly {
		return &pb.RangeResponse{Count: count(parts)}, nil
	}
	kvs, total, err := collect(parts, window(req))
	if err != nil {
		return nil, err
	}
	kvs = filter(kvs, req)
	order(kvs, req)
	resp := &pb.RangeResponse{Count: total}
	if req.Limit > 0 && int64(len(kvs)) > req.Limit {
		clear(kvs[req.Limit:])
		kvs = kvs[:req.Limit:req.Limit]
		resp.More = true
	}
	if len(kvs) > 0 { // an empty list is nil, as it is when decoded from the wire
		resp.Kvs = kvs
	}
	return resp, nil
}

// Overlay is how a transaction that writes reads its own earlier writes. It returns tail, a member's tail at the
// revision before the transaction's, followed by those of writes that this member owns and that are in the etcd
// range of key and end; the result takes the tail's place in Plan and in Part. The writes are events in the user's
// view, in the order of the operations; PrevKv of a write is nil if and only if the key did not exist before it.
// The tail's array is never written to.
//
// As in etcd, only operations that name no revision see the transaction's own writes.
func Overlay(tail, writes []*mergedlog.Event, member int, key, end []byte) []*mergedlog.Event {
	tail = slices.Clip(tail)
	for _, w := range writes {
		if w.Member == member && keyrange.Of(key, end).Contains(w.Kv.Key) {
			tail = append(tail, w)
		}
	}
	return tail
}

// window is how many of the first keys of the merged range decide the answer: one more than the limit. 0 means
// all of them, because later keys may be sorted to the front, earlier ones filtered out, or there is no limit.
//
// Without a sort order etcd cuts by key before it sorts by the target, so such a request has a window too.
func window(req *pb.RangeRequest) int64 {
	cutByKey := req.SortOrder == pb.RangeRequest_NONE ||
		req.SortOrder == pb.RangeRequest_ASCEND && req.SortTarget == pb.RangeRequest_KEY
	if req.Limit <= 0 || !cutByKey || filtered(req) {
		return 0
	}
	return saturatingAdd(req.Limit, 1)
}

// saturatingAdd adds numbers that are not negative.
func saturatingAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
