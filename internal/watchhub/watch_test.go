package watchhub

import (
	"context"
	"math"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func TestIDs(t *testing.T) {
	c := setup(t, Options{}).open()
	key := []byte("k")
	require.EqualValues(t, 0, c.watch(&pb.WatchCreateRequest{Key: key}).WatchId)
	require.EqualValues(t, 2, c.watch(&pb.WatchCreateRequest{Key: key, WatchId: 2}).WatchId)
	require.EqualValues(t, 1, c.watch(&pb.WatchCreateRequest{Key: key}).WatchId)
	require.EqualValues(t, 3, c.watch(&pb.WatchCreateRequest{Key: key}).WatchId, "2 is taken")
	dup := c.watch(&pb.WatchCreateRequest{Key: key, WatchId: 2})
	require.EqualValues(t, -1, dup.WatchId)
	require.True(t, dup.Canceled)
	require.Equal(t, "mvcc: duplicate watch ID provided on the WatchStream", dup.CancelReason)
	c.send(cancelReq(2))
	require.True(t, proto.Equal(&pb.WatchResponse{
		Header: &pb.ResponseHeader{ClusterId: 11, MemberId: 12, RaftTerm: 13, Revision: 1}, WatchId: 2, Canceled: true,
	}, c.recv()))
	require.EqualValues(t, 2, c.watch(&pb.WatchCreateRequest{Key: key, WatchId: 2}).WatchId, "free again")
}

func TestRefusedCreations(t *testing.T) {
	f := setup(t, Options{})
	f.src.commit(put("k", "1"))
	c := f.open()
	for _, tc := range []struct {
		reason string
		req    *pb.WatchCreateRequest
	}{
		{rpctypes.ErrCompacted.Error(), &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: -1}},
		{"mvcc: watcher range is empty", &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("a")}},
		{"mvcc: watcher range is empty", &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("k"), WatchId: 7}},
	} {
		r := c.watch(tc.req)
		require.True(t, r.Canceled)
		require.EqualValues(t, -1, r.WatchId)
		require.EqualValues(t, 2, r.Header.Revision)
		require.Equal(t, tc.reason, r.CancelReason)
	}
	c.send(&pb.WatchRequest{})
	c.send(createReq(nil))
	c.send(cancelReq(99))
	require.EqualValues(t, 0, c.watch(&pb.WatchCreateRequest{Key: []byte("k")}).WatchId, "refusals take no id, nonsense no answer")
	watchers, lagging, _ := f.hub.Stats()
	require.Equal(t, []int{1, 0}, []int{watchers, lagging})
}

func TestRanges(t *testing.T) {
	for name, tc := range map[string]struct {
		key, end string
		want     []string
	}{
		"key":             {"b", "", []string{"PUT b=2"}},
		"range":           {"b", "c", []string{"PUT b=2", "PUT ba=3"}},
		"from key":        {"ba", "\x00", []string{"PUT ba=3", "PUT c=4"}},
		"everything":      {"", "\x00", []string{"PUT a=1", "PUT b=2", "PUT ba=3", "PUT c=4"}},
		"from the start":  {"", "b", []string{"PUT a=1"}},
		"the smallest":    {"", "", nil},
		"nothing in here": {"bb", "bc", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, Options{})
			c := f.open()
			c.watch(&pb.WatchCreateRequest{Key: []byte(tc.key), RangeEnd: []byte(tc.end)})
			last := f.src.commit(put("a", "1"), put("b", "2"), put("ba", "3"), put("c", "4"))
			require.Equal(t, tc.want, c.events(len(tc.want)))
			require.Equal(t, last, c.progress())
		})
	}
}

func TestStartNow(t *testing.T) {
	f := setup(t, Options{})
	f.src.commit(put("k", "old"))
	c := f.open()
	require.EqualValues(t, 2, c.watch(&pb.WatchCreateRequest{Key: []byte("k")}).Header.Revision)
	f.src.commit(put("k", "new"))
	require.Equal(t, []string{"PUT k=new"}, c.events(1))
}

// TestStartNowAheadOfTheDispatcher creates watchers while the dispatcher does not know yet what is closed.
func TestStartNowAheadOfTheDispatcher(t *testing.T) {
	synctest.Test(t, testStartNowAheadOfTheDispatcher)
}

func testStartNowAheadOfTheDispatcher(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1})
	synctest.Wait() // the dispatcher waits for the log
	f.src.set(func(f *fakeSource) { f.silent = true })
	f.src.commit(put("k", "2"))
	f.src.commit(put("k", "3"))
	require.EqualValues(t, 3, c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 2}).Header.Revision)
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 3, StartRevision: 3})
	c.send(progressReq())
	f.src.release()
	got := map[int64][]string{}
	for range 2 {
		r := c.recv()
		got[r.WatchId] = show(r)
	}
	require.Equal(t, map[int64][]string{1: {"PUT k=2", "PUT k=3"}, 3: {"PUT k=3"}}, got)
	require.EqualValues(t, 3, c.progressAnswer(), "not before revision 3 is dispatched")
}

func TestStartInThePast(t *testing.T) {
	f := setup(t, Options{})
	f.src.commit(put("k", "2"))
	f.src.commit(put("k", "3"), put("l", "3"))
	f.src.commit(del("k"))
	c := f.open()
	require.EqualValues(t, 4, c.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("z"), StartRevision: 3}).Header.Revision)
	r := c.recv()
	require.Equal(t, []string{"PUT k=3", "PUT l=3", "DELETE k"}, show(r))
	require.EqualValues(t, 4, r.Header.Revision)
	f.src.commit(put("k", "5"))
	require.Equal(t, []string{"PUT k=5"}, c.events(1))
	eventually(t, func() bool { _, lagging, _ := f.hub.Stats(); return lagging == 0 }, "it should be synced")
	_, _, events := f.hub.Stats()
	require.EqualValues(t, 4, events)
}

func TestStartInTheFuture(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	require.EqualValues(t, 1, c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 4}).Header.Revision)
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: math.MaxInt64 - 2, WatchId: 9})
	for _, v := range []string{"2", "3", "4", "5"} {
		f.src.commit(put("k", v))
	}
	require.Equal(t, []string{"PUT k=4", "PUT k=5"}, c.events(2))
}

func TestStartCompacted(t *testing.T) {
	f := setup(t, Options{})
	for range 4 {
		f.src.commit(put("k", "v"))
	}
	f.src.set(func(f *fakeSource) { f.compacted = 4 })
	c := f.open()
	created := c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 3})
	require.False(t, created.Canceled)
	require.EqualValues(t, 5, created.Header.Revision)
	canceled := c.recv()
	require.True(t, canceled.Canceled)
	require.False(t, canceled.Created)
	require.EqualValues(t, 0, canceled.WatchId)
	require.EqualValues(t, 4, canceled.CompactRevision)
	require.Empty(t, canceled.CancelReason)
	require.EqualValues(t, 0, canceled.Header.Revision, "as etcd")
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 4})
	require.Len(t, c.events(2), 2, "the compacted revision itself can be watched")
	require.EqualValues(t, 5, c.progress(), "a dead watcher holds up nobody")
	watchers, _, _ := f.hub.Stats()
	require.Equal(t, 1, watchers)
	c.send(cancelReq(0)) // clientv3 does that
	r := c.recv()
	require.True(t, r.Canceled)
	require.Zero(t, r.CompactRevision)
}

func TestCompactedHasNoPrevKV(t *testing.T) {
	f := setup(t, Options{})
	for range 3 {
		f.src.commit(put("k", "v"))
	}
	c := f.open()
	prevs := func(id int64) (known []bool) {
		c.watch(&pb.WatchCreateRequest{WatchId: id, Key: []byte("k"), StartRevision: 3, PrevKv: true})
		for len(known) < 2 {
			for _, ev := range c.recv().Events {
				known = append(known, ev.PrevKv != nil)
			}
		}
		return known
	}
	require.Equal(t, []bool{true, true}, prevs(1))
	f.src.set(func(f *fakeSource) { f.compacted = 3 })
	require.Equal(t, []bool{false, true}, prevs(2), "the value before the compacted revision is gone")
}

func TestPrevKVAndFilters(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	noPut, noDelete := pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE
	for _, req := range []*pb.WatchCreateRequest{
		{WatchId: 1},
		{WatchId: 2, PrevKv: true},
		{WatchId: 3, Filters: []pb.WatchCreateRequest_FilterType{noPut}},
		{WatchId: 4, Filters: []pb.WatchCreateRequest_FilterType{noDelete}, PrevKv: true},
		{WatchId: 5, Filters: []pb.WatchCreateRequest_FilterType{noDelete, noPut}},
	} {
		req.Key = []byte("k")
		c.watch(req)
	}
	f.src.set(func(f *fakeSource) { f.held = true })
	f.src.commit(put("k", "1"))
	f.src.commit(put("k", "2"))
	f.src.commit(del("k"))
	f.src.release()
	got := map[int64][]string{}
	for range 4 {
		r := c.recv()
		got[r.WatchId] = show(r)
		require.EqualValues(t, 4, r.Header.Revision)
	}
	require.Equal(t, map[int64][]string{
		1: {"PUT k=1", "PUT k=2", "DELETE k"},
		2: {"PUT k=1", "PUT k=2 was 1", "DELETE k was 2"},
		3: {"DELETE k"},
		4: {"PUT k=1", "PUT k=2 was 1"},
	}, got)
}

// TestEventsAreTheWatchersOwn: clientv3/namespace rewrites the keys of what it received.
func TestEventsAreTheWatchersOwn(t *testing.T) {
	f := setup(t, Options{})
	a, b := f.open(), f.open()
	for _, c := range []*client{a, b} {
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), PrevKv: true})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), PrevKv: true})
	}
	f.src.commit(put("k", "1"))
	f.src.commit(put("k", "2"))
	for _, c := range []*client{a, b} {
		for n := 0; n < 4; {
			r := c.recv()
			for _, ev := range r.Events {
				n++
				require.Equal(t, "k", string(ev.Kv.Key))
				ev.Kv.Key = nil
				if ev.PrevKv != nil {
					require.Equal(t, "k", string(ev.PrevKv.Key))
					ev.PrevKv.Key = nil
				}
			}
		}
	}
}

func TestCopiesAreComplete(t *testing.T) {
	kv := &mvccpb.KeyValue{}
	m := kv.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		v := m.NewField(fd)
		switch v.Interface().(type) {
		case int64:
			m.Set(fd, protoreflect.ValueOfInt64(int64(i+1)))
		case []byte:
			m.Set(fd, protoreflect.ValueOfBytes([]byte{byte(i + 1)}))
		default:
			t.Fatalf("field %s: unknown kind", fd.Name())
		}
	}
	var own mvccpb.KeyValue
	copyKV(&own, kv)
	require.True(t, proto.Equal(kv, &own))
	require.Equal(t, 3, (&mvccpb.Event{}).ProtoReflect().Descriptor().Fields().Len(), "cells know type, kv and prev_kv")
	require.Equal(t, 8, (&pb.WatchResponse{}).ProtoReflect().Descriptor().Fields().Len(), "fragmentOf knows them")
}

func TestCancel(t *testing.T) {
	f := setup(t, Options{})
	f.src.commit(put("k", "old"))
	c := f.open()
	for id := int64(1); id <= 3; id++ {
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: id})
	}
	c.send(cancelReq(2))
	require.True(t, c.recv().Canceled)
	f.src.commit(put("k", "1"))
	got := map[int64]bool{}
	for range 2 {
		got[c.recv().WatchId] = true
	}
	require.Equal(t, map[int64]bool{1: true, 3: true}, got)
	require.EqualValues(t, 3, c.progress())
	watchers, _, _ := f.hub.Stats()
	require.Equal(t, 2, watchers)
}

func TestStreamEndRemovesItsWatchers(t *testing.T) {
	f := setup(t, Options{})
	c, other := f.open(), f.open()
	other.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	require.NoError(t, c.cs.CloseSend())
	f.src.commit(put("k", "1"))
	require.Len(t, c.events(1), 1, "as in etcd, a half-closed stream lives on")
	c.cancel()
	eventually(t, func() bool { n, _, _ := f.hub.Stats(); return n == 1 }, "the watcher should be gone")
	f.src.commit(put("k", "2"))
	require.Len(t, other.events(2), 2)
}

// TestClientGone: what the handler of a stream returns is etcd's.
func TestClientGone(t *testing.T) {
	f := setup(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.hub.Watch(idleStream{ctx: ctx}) }()
	cancel()
	require.Equal(t, rpctypes.ErrGRPCWatchCanceled, <-ended)
	require.Equal(t, errBoom, f.hub.Watch(idleStream{ctx: t.Context(), broken: errBoom}))
}

// idleStream is a client that asks for nothing.
type idleStream struct {
	pb.Watch_WatchServer
	ctx    context.Context
	broken error
}

func (s idleStream) Context() context.Context { return s.ctx }

func (s idleStream) Recv() (*pb.WatchRequest, error) {
	if s.broken == nil {
		<-s.ctx.Done()
		return nil, s.ctx.Err()
	}
	return nil, s.broken
}
