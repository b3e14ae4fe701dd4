package conformance

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leases are the ids that requests name: none, some that come and go, and one that never is.
var leases = []int64{0, 0, 0, 9999, 7001, 7002, -7003}

// keys are few, so that operations meet, and not more than twelve: of those, etcd's sort keeps equal ones in key order, of more it
// keeps no promise. All but the last three have a first path segment. See crowd for more.
var keys = []string{
	"a/1", "a/2", "a/2/x", "a/\xff", "b/1", "b/2", "b/2\x00", "c/1", "c/2",
	"a", "d", "\xff",
}

// generator draws requests whose revisions are the plain etcd's.
type generator struct {
	*rapid.T
	revs *revisions
	// group tells which keys live together under the cluster's sharding policy.
	group func(key string) string

	nestedDeletes bool // of the transaction being drawn
}

func sample[T any](g *generator, from []T, label string) T {
	return rapid.SampledFrom(from).Draw(g.T, label)
}

// oneIn is true in about one of n draws, and shrinks to false.
func (g *generator) oneIn(n int, label string) bool {
	return rapid.IntRange(0, n-1).Draw(g.T, label) == n-1
}

func (g *generator) key() string { return sample(g, keys, "key") }

// among returns what a request's keys are drawn from: all keys, or those that live with a random one.
func (g *generator) among() []string {
	if g.oneIn(2, "anywhere") {
		return keys
	}
	group := g.group(g.key())
	var near []string
	for _, k := range keys {
		if g.group(k) == group {
			near = append(near, k)
		}
	}
	return near
}

func (g *generator) value() []byte {
	return []byte(sample(g, []string{"", "0", "1", "2", "10", "v", "longer\x00value"}, "value"))
}

// rev is 0, something below, or a revision from before the compaction up to the future. It is drawn relative to the present, so
// that a sequence can be repeated.
func (g *generator) rev() int64 {
	switch rapid.IntRange(0, 8).Draw(g.T, "rev kind") {
	case 6, 7:
		back := rapid.Int64Range(-2, min(g.revs.current()-g.revs.base+2, 40)).Draw(g.T, "revs back")
		return g.revs.current() - back
	case 8:
		return rapid.Int64Range(-1, 1).Draw(g.T, "early rev")
	default:
		return 0
	}
}

// rangeEnd is the end of a range that starts at key: a single key, a prefix, an explicit end (possibly before the start, or a
// known key), or everything from key on.
func (g *generator) rangeEnd(key string, among []string) []byte {
	switch rapid.IntRange(0, 5).Draw(g.T, "range kind") {
	case 0:
		return nil
	case 1, 2:
		return []byte(clientv3.GetPrefixRangeEnd(key))
	case 3:
		return []byte(sample(g, among, "end"))
	case 4:
		return []byte(clientv3.GetPrefixRangeEnd(key[:1]))
	default:
		return []byte{0}
	}
}

func (g *generator) get(among []string) *pb.RangeRequest {
	key := sample(g, among, "key")
	req := &pb.RangeRequest{
		RangeEnd:     g.rangeEnd(key, among),
		Revision:     g.rev(),
		Serializable: g.oneIn(4, "serializable"),
		KeysOnly:     g.oneIn(6, "keys only"),
		CountOnly:    g.oneIn(8, "count only"),
	}
	if g.oneIn(3, "everything") {
		key, req.RangeEnd = "\x00", []byte{0}
	}
	req.Key = []byte(key)
	if g.oneIn(2, "limited") {
		req.Limit = rapid.Int64Range(-1, 6).Draw(g.T, "limit")
	}
	if g.oneIn(3, "sorted") && !slices.Contains(g.revs.crowds, req.Revision) {
		req.SortOrder = pb.RangeRequest_SortOrder(rapid.Int32Range(0, 2).Draw(g.T, "order"))
		req.SortTarget = pb.RangeRequest_SortTarget(rapid.Int32Range(0, 4).Draw(g.T, "target"))
	}
	if g.oneIn(4, "filtered") {
		bounds := []*int64{&req.MinModRevision, &req.MaxModRevision, &req.MinCreateRevision, &req.MaxCreateRevision}
		*sample(g, bounds, "bound") = g.rev()
		*sample(g, bounds, "bound") = g.rev()
	}
	return req
}

// stream is a get for RangeStream. Without an order, but with another target than the key, etcd sorts each chunk by itself and then
// goes on from a wrong key: nothing to compare with.
func (g *generator) stream() streamed {
	req := g.get(keys)
	if req.SortOrder == pb.RangeRequest_NONE {
		req.SortTarget = pb.RangeRequest_KEY
	}
	return streamed{req}
}

func (g *generator) put(among []string) *pb.PutRequest {
	req := &pb.PutRequest{
		Key:    []byte(sample(g, among, "key")),
		Lease:  g.lease(),
		PrevKv: g.oneIn(3, "prev kv"),
	}
	if req.IgnoreValue = g.oneIn(6, "ignore value"); !req.IgnoreValue || g.oneIn(8, "value too") {
		req.Value = g.value()
	}
	if req.IgnoreLease = g.oneIn(6, "ignore lease"); req.IgnoreLease && !g.oneIn(8, "lease too") {
		req.Lease = 0
	}
	return req
}

func (g *generator) lease() int64 { return sample(g, leases, "lease") }

// renewed asks for a lease to be kept alive once.
type renewed struct{ *pb.LeaseKeepAliveRequest }

// leased is an operation on a lease. None ends by itself while the test runs.
func (g *generator) leased() any {
	id := sample(g, leases[3:], "lease")
	switch rapid.IntRange(0, 7).Draw(g.T, "lease op") {
	case 0, 1, 2:
		return &pb.LeaseGrantRequest{ID: sample(g, leases[4:], "granted"), TTL: sample(g, []int64{3600, 3600, 7200, 9_000_000_001}, "ttl")}
	case 3, 4:
		return &pb.LeaseRevokeRequest{ID: id}
	case 5:
		return &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}
	case 6:
		return &pb.LeaseLeasesRequest{}
	default:
		return renewed{&pb.LeaseKeepAliveRequest{ID: id}}
	}
}

func (g *generator) del(among []string) *pb.DeleteRangeRequest {
	key := sample(g, among, "key")
	req := &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: g.oneIn(3, "prev kv")}
	if g.oneIn(3, "range delete") {
		req.RangeEnd = g.rangeEnd(key, among)
	}
	return req
}

func (g *generator) compare(among []string) *pb.Compare {
	key := sample(g, among, "key")
	c := &pb.Compare{
		Key:    []byte(key),
		Result: pb.Compare_CompareResult(rapid.Int32Range(0, 3).Draw(g.T, "result")),
		Target: pb.Compare_CompareTarget(rapid.Int32Range(0, 4).Draw(g.T, "target")),
	}
	if g.oneIn(4, "range compare") {
		c.RangeEnd = g.rangeEnd(key, among)
	}
	if g.oneIn(20, "no operand") {
		return c
	}
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: rapid.Int64Range(0, 3).Draw(g.T, "version")}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.rev()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.rev()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
	}
	return c
}

// txn draws a transaction of at most the given depth of nesting. Duplicate keys happen by themselves, except where etcd does not
// notice that a key is put and deleted at once, see mixed: between nested transactions, so that all of one transaction put or all
// delete, and below a delete without an end, so that there are none.
func (g *generator) txn(among []string, depth int) *pb.TxnRequest {
	g.nestedDeletes = g.oneIn(2, "nested deletes")
	return g.level(among, depth, false)
}

func (g *generator) level(among []string, depth int, nested bool) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for range rapid.IntRange(0, 3).Draw(g.T, "compares") {
		req.Compare = append(req.Compare, g.compare(among))
	}
	readOnly := g.oneIn(5, "read only")
	for _, branch := range []*[]*pb.RequestOp{&req.Success, &req.Failure} {
		for range rapid.IntRange(0, 3).Draw(g.T, "ops") {
			*branch = append(*branch, g.op(among, depth, nested, readOnly))
		}
	}
	return req
}

func (g *generator) op(among []string, depth int, nested, readOnly bool) *pb.RequestOp {
	kind := rapid.IntRange(0, 9).Draw(g.T, "op")
	if nested && kind > 2 && kind < 9 {
		kind = map[bool]int{false: 3, true: 7}[g.nestedDeletes]
	}
	switch {
	case kind <= 2 || readOnly || kind == 9 && depth == 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.get(among)}}
	case kind <= 6:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put(among)}}
	case kind <= 8:
		req := g.del(among)
		if string(req.RangeEnd) == "\x00" {
			req.RangeEnd = nil
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.level(among, depth-1, true)}}
	}
}

// mixed is a transaction that puts and deletes keys in the ways that etcd lets pass: in nested transactions of which those that put
// come first, and below deletes without an end. None of its puts keeps anything: of a deleted key that ends etcd's servers.
func (g *generator) mixed() *pb.TxnRequest {
	among := g.among()
	req := &pb.TxnRequest{}
	add := func(op *pb.RequestOp, nested bool) {
		if nested {
			op = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{op}}}}
		}
		req.Success = append(req.Success, op)
	}
	remove := func(end []byte, nested bool) {
		d := &pb.DeleteRangeRequest{Key: []byte(sample(g, among, "key")), RangeEnd: end, PrevKv: g.oneIn(2, "prev kv")}
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}, nested)
	}
	endless := func() {
		if g.oneIn(2, "endless") {
			remove([]byte{0}, g.oneIn(3, "nested"))
		}
	}
	endless()
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(among), 1, min(3, len(among)), rapid.ID).Draw(g.T, "puts") {
		put := &pb.PutRequest{Key: []byte(k), Value: g.value(), PrevKv: g.oneIn(3, "prev kv")}
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}, !g.oneIn(3, "flat"))
	}
	endless()
	for range rapid.IntRange(0, 3).Draw(g.T, "deletes") {
		d := g.del(among)
		remove(d.RangeEnd, !g.oneIn(4, "flat"))
	}
	if g.oneIn(3, "read") {
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}}, false)
	}
	endless()
	return req
}

// compaction does not name a revision that puts and deletes a key: compacted there, an etcd loses the key.
func (g *generator) compaction() *pb.CompactionRequest {
	rev := g.rev()
	for g.revs.mixed[rev] {
		rev--
	}
	return &pb.CompactionRequest{Revision: rev, Physical: g.oneIn(2, "physical")}
}

// broken damages a request so that validation has to refuse it, most of the time.
func (g *generator) broken() any {
	switch rapid.IntRange(0, 6).Draw(g.T, "damage") {
	case 0:
		return &pb.PutRequest{Value: g.value()}
	case 1:
		return &pb.RangeRequest{RangeEnd: []byte("z")}
	case 2:
		req := g.get(keys)
		req.SortTarget, req.SortOrder = 9, pb.RangeRequest_ASCEND
		return req
	case 3:
		req := g.get(keys)
		req.SortOrder = 7
		return req
	case 4:
		req := g.txn(g.among(), 1)
		req.Success = append(req.Success, &pb.RequestOp{})
		return req
	case 5:
		return g.crowded()
	default:
		req := g.txn(g.among(), 0)
		req.Compare = append(req.Compare, &pb.Compare{})
		return req
	}
}

// allowed is the number of operations, and of compares, that etcd allows in a transaction.
const allowed = 128

// crowded is a transaction at or just over what etcd allows.
func (g *generator) crowded() *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for i := range allowed + rapid.IntRange(0, 1).Draw(g.T, "over") {
		get := &pb.RangeRequest{Key: fmt.Appendf(nil, "a/%d", i)}
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: get}})
	}
	return req
}

// crowdPrefix begins keys that exist only between a crowd and its dispersal. By segments, they live on one member.
const crowdPrefix = "m/"

// crowd is a transaction that puts as many keys as etcd allows, or a few less, on the condition that they, and with them up to as
// many others, are absent.
func (g *generator) crowd() *pb.TxnRequest {
	req := &pb.TxnRequest{}
	first := rapid.IntRange(0, allowed).Draw(g.T, "first compared")
	for i := range g.many() {
		key := fmt.Appendf(nil, "%s%d", crowdPrefix, i)
		compared := fmt.Appendf(nil, "%s%d", crowdPrefix, first+i)
		put := &pb.PutRequest{Key: key, Value: g.value()}
		req.Compare = append(req.Compare, &pb.Compare{Key: compared, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{}})
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	return req
}

func (g *generator) many() int {
	return sample(g, []int{allowed, allowed - 1, allowed / 2, allowed/2 - 1, 45}, "many")
}

// disperse deletes a crowd: the range at once, or key by key, of which some may be absent, and what is left as a range; sometimes
// beside another change.
func (g *generator) disperse() *pb.TxnRequest {
	req := &pb.TxnRequest{}
	del := func(key string, end []byte) {
		op := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: end, PrevKv: g.oneIn(3, "prev kv")}
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: op}})
	}
	if g.oneIn(2, "beside") {
		put := &pb.PutRequest{Key: []byte(g.key()), Value: g.value()}
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	if g.oneIn(2, "key by key") {
		for i := range allowed - 2 {
			del(fmt.Sprintf("%s%d", crowdPrefix, i), nil)
		}
	}
	del(crowdPrefix, []byte(clientv3.GetPrefixRangeEnd(crowdPrefix)))
	return req
}

// watch begins at the next event at the latest: which later one a future revision is depends on those that pass without one.
func (g *generator) watch() *pb.WatchCreateRequest {
	key := g.key()
	req := &pb.WatchCreateRequest{
		RangeEnd:      g.rangeEnd(key, keys),
		StartRevision: min(max(g.rev(), 0), g.revs.current()+1),
		PrevKv:        g.oneIn(2, "prev kv"),
		Fragment:      g.oneIn(4, "fragment"),
	}
	if g.oneIn(3, "everything") {
		key, req.RangeEnd = "\x00", []byte{0}
	}
	req.Key = []byte(key)
	if g.oneIn(4, "filter") {
		req.Filters = append(req.Filters, sample(g, []pb.WatchCreateRequest_FilterType{
			pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE,
		}, "filter"))
	}
	return req
}
