package snapshot

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// TestMergeAnswersAsEtcd compares snapshots of random histories, read as the protocol reads them from members that
// obey Plan's requests, with etcd's semantics on the merged keyspace.
func TestMergeAnswersAsEtcd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		before := clones(h.members...)
		r := h.stamps - int64(uniform(int(h.stamps)).Draw(t, "newer stamps"))
		state := h.at(r)
		var own []*mergedlog.Event
		if rapid.Bool().Draw(t, "in transaction") {
			own = drawOwnWrites(t, h, state, r+1)
		}
		for range 32 {
			req := drawRequest(t, h)
			parts, _ := readParts(t, h, req, r, own, Values)
			got, err := Merge(req, parts)
			require.NoError(t, err)
			requireSame(t, etcdRange(req, state), got, req)
		}
		require.Equal(t, before, clones(h.members...), "events were changed")
	})
}

// readParts reads each member's base and tail, the base with what a level says of its pairs. It also returns where the bases are.
func readParts(t *rapid.T, h *history, req *pb.RangeRequest, r int64, own []*mergedlog.Event, level Level) ([]Part, []int64) {
	parts, los := make([]Part, len(h.members)), make([]int64, len(h.members))
	for m := range parts {
		lo := h.lo(m, r)
		if rapid.Bool().Draw(t, "index thinned") {
			lo = int64(uniform(int(lo)+1).Draw(t, "lo"))
		}
		tail := Overlay(h.tail(m, lo, r, req.Key, req.RangeEnd), own, m, req.Key, req.RangeEnd)
		native := Plan(req, tail, len(h.members))
		require.True(t, proto.Equal(native, &pb.RangeRequest{
			Key: req.Key, RangeEnd: req.RangeEnd, CountOnly: req.CountOnly, Limit: native.Limit,
		}), "the base depends on the native view: %v", native)
		if len(h.members) > 1 && native.Limit > 1 && rapid.Bool().Draw(t, "smaller share") {
			native.Limit = 1 + int64(uniform(int(min(native.Limit, 12))).Draw(t, "share"))
		}
		base := etcdRange(native, h.native(m, lo))
		parts[m] = Part{Kvs: shownAt(level, base.Kvs), Count: base.Count, More: base.More, Tail: tail}
		los[m] = lo
	}
	rest, err := Rest(req, parts)
	require.NoError(t, err)
	for m, native := range rest {
		if native != nil {
			parts[m].Kvs = append(parts[m].Kvs, shownAt(level, etcdRange(native, h.native(m, los[m])).Kvs)...)
		}
	}
	return parts, los
}

// drawOwnWrites lets a transaction with the given stamp write, and applies that to state.
func drawOwnWrites(t *rapid.T, h *history, state map[string]*mvccpb.KeyValue, stamp int64) []*mergedlog.Event {
	var own []*mergedlog.Event
	for range oneOf(0, 1, 3, 8).Draw(t, "own writes") {
		k := oneOf(h.keys...).Draw(t, "key")
		e := drawEvent(t, k, stamp, state[k])
		if e == nil {
			continue
		}
		e.Member = h.owner[k]
		own = append(own, e)
		delete(state, k)
		if kv := current(e); kv != nil {
			state[k] = kv
		}
	}
	return own
}

func drawRequest(t *rapid.T, h *history) *pb.RangeRequest {
	req := &pb.RangeRequest{
		Revision:     int64(uniform(9).Draw(t, "ignored")),
		Serializable: rapid.Bool().Draw(t, "serializable"),
		KeysOnly:     rapid.Bool().Draw(t, "keys only"),
		CountOnly:    oneOf(false, false, false, true).Draw(t, "count only"),
		Limit:        oneOf[int64](-1, 0, 1, 1, 2, 2, 3, 4, 5, 7, 9, 100, math.MaxInt64-1, math.MaxInt64, -1).Draw(t, "limit"),
		SortOrder:    pb.RangeRequest_SortOrder(uniform(3).Draw(t, "order")),
		SortTarget:   pb.RangeRequest_SortTarget(uniform(5).Draw(t, "target")),
	}
	if rapid.Bool().Draw(t, "not sorted") {
		req.SortOrder = pb.RangeRequest_NONE
	}
	edges := append([]string{"a", "b", "c", "zzz"}, h.keys...)
	req.Key = []byte(oneOf(edges...).Draw(t, "start"))
	switch oneOf("one", "from", "between", "prefix", "all", "all", "all", "all").Draw(t, "range") {
	case "all":
		req.Key, req.RangeEnd = []byte{1}, []byte{0}
	case "from":
		req.RangeEnd = []byte{0}
	case "between": // also where the end is not behind the start
		req.RangeEnd = []byte(oneOf(edges...).Draw(t, "end"))
	case "prefix":
		req.Key, req.RangeEnd = []byte("b"), []byte("c")
	}
	if oneOf(false, false, true).Draw(t, "filtered") {
		bound := func(name string) int64 {
			if rapid.Bool().Draw(t, name+" unset") {
				return 0
			}
			return -1 + int64(uniform(int(h.stamps)+3).Draw(t, name))
		}
		req.MinModRevision, req.MaxModRevision = bound("min mod"), bound("max mod")
		req.MinCreateRevision, req.MaxCreateRevision = bound("min create"), bound("max create")
	}
	return req
}

func requireSame(t require.TestingT, want, got *pb.RangeResponse, req *pb.RangeRequest) {
	require.True(t, proto.Equal(want, got), "request %v\nwant %v\ngot  %v", req, want, got)
	require.Equal(t, len(want.Kvs) == 0, got.Kvs == nil)
}

func put(key string, mod, create, version int64, prev *mvccpb.KeyValue) *mergedlog.Event {
	return &mergedlog.Event{
		Rev: mod, Type: mvccpb.Event_PUT, PrevKv: prev,
		Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: mod, CreateRevision: create, Version: version, Value: []byte("v")},
	}
}

func del(key string, mod int64, prev *mvccpb.KeyValue) *mergedlog.Event {
	return &mergedlog.Event{
		Rev: mod, Type: mvccpb.Event_DELETE, PrevKv: prev,
		Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: mod},
	}
}

func TestPlanLimit(t *testing.T) {
	a, b := put("a", 2, 2, 1, nil), put("b", 3, 3, 1, nil)
	gone := []*mergedlog.Event{del("a", 5, a.Kv), del("b", 6, b.Kv)}
	filter := func(f func(*pb.RangeRequest)) *pb.RangeRequest {
		req := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 10}
		f(req)
		return req
	}
	order := func(target pb.RangeRequest_SortTarget, order pb.RangeRequest_SortOrder) *pb.RangeRequest {
		return filter(func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = target, order })
	}
	limit := func(n int64) *pb.RangeRequest {
		return filter(func(r *pb.RangeRequest) { r.Limit = n })
	}
	for _, tc := range []struct {
		name string
		req  *pb.RangeRequest
		tail []*mergedlog.Event
		want int64
	}{
		{"one more", limit(10), nil, 11},
		{"unlimited", limit(0), gone, 0},
		{"negative", limit(-3), gone, 0},
		{"tail removes two", limit(10), gone, 13},
		{"tail sets", limit(10), []*mergedlog.Event{a, b}, 11},
		{"removed and set again", limit(10), append(slices.Clone(gone), put("a", 7, 7, 1, nil)), 12},
		{"created and removed", limit(10), []*mergedlog.Event{a, del("a", 5, a.Kv)}, 11},
		{"removed twice", limit(10), []*mergedlog.Event{gone[0], put("a", 7, 7, 1, nil), del("a", 8, a.Kv)}, 12},
		{"below the end", limit(math.MaxInt64 - 1), nil, math.MaxInt64},
		{"at the end", limit(math.MaxInt64), nil, math.MaxInt64},
		{"over the end", limit(math.MaxInt64 - 2), gone, math.MaxInt64},
		{"key ascending", order(pb.RangeRequest_KEY, pb.RangeRequest_ASCEND), nil, 11},
		{"key descending", order(pb.RangeRequest_KEY, pb.RangeRequest_DESCEND), nil, 0},
		{"version ascending", order(pb.RangeRequest_VERSION, pb.RangeRequest_ASCEND), nil, 0},
		{"value descending", order(pb.RangeRequest_VALUE, pb.RangeRequest_DESCEND), nil, 0},
		{"cut by key, then sorted", order(pb.RangeRequest_MOD, pb.RangeRequest_NONE), nil, 11},
		{"min mod", filter(func(r *pb.RangeRequest) { r.MinModRevision = 1 }), nil, 0},
		{"max mod", filter(func(r *pb.RangeRequest) { r.MaxModRevision = 1 }), nil, 0},
		{"min create", filter(func(r *pb.RangeRequest) { r.MinCreateRevision = 1 }), nil, 0},
		{"max create", filter(func(r *pb.RangeRequest) { r.MaxCreateRevision = 1 }), nil, 0},
		{"count only", filter(func(r *pb.RangeRequest) { r.CountOnly = true }), gone, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Equal(t, tc.want, Plan(tc.req, tc.tail, 1).Limit)
		})
	}
}

// TestShares: of many keys every member is asked for its share, and again if it holds more of them.
func TestShares(t *testing.T) {
	const limit, members = 500, 3
	req := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: limit}
	for name, tc := range map[string]struct {
		owner func(i int) int
		asked []int64 // of Rest, by member
	}{
		"spread":          {owner: func(i int) int { return i % members }},
		"clumped":         {owner: func(i int) int { return i / 1000 }, asked: []int64{501 - 216, 501 - 2*216, 0}},
		"none on the two": {owner: func(int) int { return 2 }, asked: []int64{0, 0, 501 - 216}},
	} {
		t.Run(name, func(t *testing.T) {
			states := make([]map[string]*mvccpb.KeyValue, members)
			merged := map[string]*mvccpb.KeyValue{}
			for i := range members {
				states[i] = map[string]*mvccpb.KeyValue{}
			}
			for i := range members * 1000 {
				kv := put(fmt.Sprintf("k%05d", i), 2, 2, 1, nil).Kv
				states[tc.owner(i)][string(kv.Key)], merged[string(kv.Key)] = kv, kv
			}
			parts := make([]Part, members)
			for i := range parts {
				native := Plan(req, nil, members)
				require.EqualValues(t, 167+41+8, native.Limit)
				base := etcdRange(native, states[i])
				parts[i] = Part{Kvs: base.Kvs, Count: base.Count, More: base.More}
			}
			rest, err := Rest(req, parts)
			require.NoError(t, err)
			var asked []int64
			for i, native := range rest {
				asked = append(asked, native.GetLimit())
				if native != nil {
					parts[i].Kvs = append(parts[i].Kvs, etcdRange(native, states[i]).Kvs...)
				}
			}
			require.Equal(t, tc.asked, asked)
			got, err := Merge(req, parts)
			require.NoError(t, err)
			requireSame(t, etcdRange(req, merged), got, req)
		})
	}
}

// TestRestCountsWhatTheTailRemoves: of what lies behind the cut, the tail removes two keys, and one key in front of it decides.
func TestRestCountsWhatTheTailRemoves(t *testing.T) {
	a, c, d, z := put("a", 2, 2, 1, nil), put("c", 3, 3, 1, nil), put("d", 4, 4, 1, nil), put("z", 5, 5, 1, nil)
	parts := []Part{
		{Kvs: []*mvccpb.KeyValue{a.Kv}, Count: 6, More: true, Tail: []*mergedlog.Event{del("c", 6, c.Kv), del("d", 7, d.Kv)}},
		{Kvs: []*mvccpb.KeyValue{z.Kv}, Count: 1},
	}
	req := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: 2}
	rest, err := Rest(req, parts)
	require.NoError(t, err)
	require.Len(t, rest, 2)
	require.True(t, proto.Equal(&pb.RangeRequest{Key: []byte("a\x00"), RangeEnd: []byte{0}, Limit: 3 - 1 + 2}, rest[0]), "%v", rest[0])
	require.Nil(t, rest[1])
}

// TestCutBeforeSort is etcd's own way with a limit and a sort target but no order: the first keys, sorted.
func TestCutBeforeSort(t *testing.T) {
	a, b, c, d := put("a", 9, 9, 1, nil).Kv, put("b", 5, 5, 1, nil).Kv, put("c", 2, 2, 1, nil).Kv, put("d", 1, 1, 1, nil).Kv
	for name, parts := range map[string][]Part{
		"one member":  {{Kvs: []*mvccpb.KeyValue{a, b, c, d}, Count: 4}},
		"two members": {{Kvs: []*mvccpb.KeyValue{a, c}, Count: 2}, {Kvs: []*mvccpb.KeyValue{b, d}, Count: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := Merge(&pb.RangeRequest{Limit: 2, SortTarget: pb.RangeRequest_MOD}, parts)
			require.NoError(t, err)
			require.True(t, resp.More)
			require.EqualValues(t, 4, resp.Count)
			require.Equal(t, []string{"c", "b"}, keysOf(resp.Kvs))
		})
	}
}

func TestMergeRefusesOverlap(t *testing.T) {
	base := func(keys ...string) (p Part) {
		for _, k := range keys {
			p.Kvs = append(p.Kvs, put(k, 2, 2, 1, nil).Kv)
		}
		p.Count = int64(len(keys))
		return p
	}
	for name, parts := range map[string][]Part{
		"first keys":  {base("a", "b"), base("a", "c")},
		"last keys":   {base("a", "d"), base("b", "d")},
		"of three":    {base("a", "e"), base("b", "c"), base("c", "d")},
		"in a tail":   {base("a", "d"), {Tail: []*mergedlog.Event{put("a", 3, 3, 1, nil)}}},
		"not sorted":  {base("b", "a"), base("c")},
		"rest by one": {base("a"), base("a", "b")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Merge(&pb.RangeRequest{}, parts)
			require.ErrorIs(t, err, ErrOverlap)
		})
	}
}

func TestMergeOfNothing(t *testing.T) {
	for _, parts := range [][]Part{nil, {{}}, {{}, {}}} {
		for _, req := range []*pb.RangeRequest{{}, {Limit: 1}, {CountOnly: true}, {SortOrder: pb.RangeRequest_DESCEND}} {
			resp, err := Merge(req, parts)
			require.NoError(t, err)
			requireSame(t, &pb.RangeResponse{}, resp, req)
		}
	}
}

// TestMergeLimitedKeepsNoMore checks that the answer does not keep the pairs alive that it does not show.
func TestMergeLimitedKeepsNoMore(t *testing.T) {
	kvs := []*mvccpb.KeyValue{put("a", 2, 2, 1, nil).Kv, put("b", 3, 3, 1, nil).Kv, put("c", 4, 4, 1, nil).Kv}
	resp, err := Merge(&pb.RangeRequest{Limit: 1, SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_MOD},
		[]Part{{Kvs: kvs, Count: 3}})
	require.NoError(t, err)
	require.Equal(t, []string{"c"}, keysOf(resp.Kvs))
	require.Equal(t, 1, cap(resp.Kvs))
	require.Nil(t, kvs[1])
	require.Nil(t, kvs[2])
}

func TestOverlayLeavesTailAlone(t *testing.T) {
	shared := []*mergedlog.Event{put("a", 2, 2, 1, nil), put("b", 3, 3, 1, nil)}
	own := put("a", 4, 2, 2, shared[0].Kv)
	got := Overlay(shared[:1], []*mergedlog.Event{own}, 0, []byte("a"), nil)
	require.Equal(t, []*mergedlog.Event{shared[0], own}, got)
	require.Equal(t, "b", string(shared[1].Kv.Key))
	require.Empty(t, Overlay(nil, []*mergedlog.Event{own}, 1, []byte("a"), nil), "another member's write")
	require.Empty(t, Overlay(nil, []*mergedlog.Event{own}, 0, []byte("b"), []byte{0}), "outside of the range")
}

func keysOf(kvs []*mvccpb.KeyValue) []string {
	var keys []string
	for _, kv := range kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}
