package snapshot

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// filtered tells whether req filters by revisions.
func filtered(req *pb.RangeRequest) bool {
	return req.MinModRevision != 0 || req.MaxModRevision != 0 ||
		req.MinCreateRevision != 0 || req.MaxCreateRevision != 0
}

// filter drops, in place, what the revision filters of req exclude.
func filter(kvs []*mvccpb.KeyValue, req *pb.RangeRequest) []*mvccpb.KeyValue {
	if !filtered(req) {
		return kvs
	}
	return slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return excluded(kv.ModRevision, req.MinModRevision, req.MaxModRevision) ||
			excluded(kv.CreateRevision, req.MinCreateRevision, req.MaxCreateRevision)
	})
}

// excluded tells whether rev is outside of [low, high]; a bound of 0 is none.
func excluded(rev, low, high int64) bool {
	return low != 0 && rev < low || high != 0 && rev > high
}

// order sorts kvs, which are in key order, as req wants them. Equals stay in key order.
func order(kvs []*mvccpb.KeyValue, req *pb.RangeRequest) {
	descend := req.SortOrder == pb.RangeRequest_DESCEND
	if req.SortTarget == pb.RangeRequest_KEY {
		if descend {
			slices.Reverse(kvs)
		}
		return
	}
	compare := comparator(req.SortTarget)
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		c := compare(a, b)
		if descend {
			c = -c
		}
		if c == 0 {
			c = bytes.Compare(a.Key, b.Key)
		}
		return c
	})
}

// comparator returns the ascending order by a target. A request with any other target than etcd's is refused by
// validation.
func comparator(target pb.RangeRequest_SortTarget) func(a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	}
	return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }
}

// Strip makes the pairs what etcd returns for KeysOnly. etcd 3.7 answers from its index, which does not know
// leases, unless it needs the values to sort by them (etcd-io/etcd issue 22209).
func Strip(kvs []*mvccpb.KeyValue, target pb.RangeRequest_SortTarget) {
	keepLease := target == pb.RangeRequest_VALUE
	for _, kv := range kvs {
		kv.Value = nil
		if !keepLease {
			kv.Lease = 0
		}
	}
}
