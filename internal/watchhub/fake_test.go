package watchhub

import (
	"context"
	"errors"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits that must succeed.
const patience = time.Minute

// fakeSource is a log in memory that can evict, compact, hold back and fail.
type fakeSource struct {
	mu        sync.Mutex
	state     map[string]*mvccpb.KeyValue
	events    []*mergedlog.Event // all there ever were
	highest   int64
	closed    int64
	compacted int64
	told      int64
	awaited   int64
	passed    int64
	needed    int64
	keeps     bool  // what is above the floor stays
	floor     int64 // Since fails below it
	held      bool  // commits do not advance the closed revision
	silent    bool  // advancing tells nobody
	advanced  chan struct{}
	done      chan struct{}
	err       error
	replay    func(from int64) error // asked before every stamp of a replay
	replays   int
	noKeys    bool // history is not read for single keys
	sinces    int
}

func newSource() *fakeSource {
	return &fakeSource{
		state: map[string]*mvccpb.KeyValue{}, highest: 1, closed: 1,
		advanced: make(chan struct{}), done: make(chan struct{}),
	}
}

type op struct {
	key, value string
	del        bool
}

func put(key, value string) op { return op{key: key, value: value} }
func del(key string) op        { return op{key: key, del: true} }

// commit writes the operations at one new revision.
func (f *fakeSource) commit(ops ...op) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest++
	for _, o := range ops {
		prev := f.state[o.key]
		ev := &mergedlog.Event{Rev: f.highest, PrevKv: prev}
		if o.del {
			if prev == nil {
				continue
			}
			ev.Type = mvccpb.Event_DELETE
			ev.Kv = &mvccpb.KeyValue{Key: []byte(o.key), ModRevision: f.highest}
			delete(f.state, o.key)
		} else {
			ev.Kv = &mvccpb.KeyValue{Key: []byte(o.key), Value: []byte(o.value), CreateRevision: f.highest, ModRevision: f.highest, Version: 1}
			if prev != nil {
				ev.Kv.CreateRevision, ev.Kv.Version = prev.CreateRevision, prev.Version+1
			}
			f.state[o.key] = ev.Kv
		}
		f.events = append(f.events, ev)
	}
	if !f.held {
		f.advanceLocked()
	}
	return f.highest
}

func (f *fakeSource) advanceLocked() {
	f.closed = f.highest
	if !f.silent {
		close(f.advanced)
		f.advanced = make(chan struct{})
	}
}

func (f *fakeSource) set(change func(*fakeSource)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// release closes everything that was held back.
func (f *fakeSource) release() {
	f.set(func(f *fakeSource) { f.held, f.silent = false, false; f.advanceLocked() })
}

func (f *fakeSource) fail(err error) {
	f.set(func(f *fakeSource) { f.err = err; close(f.done) })
}

func (f *fakeSource) count(of func(*fakeSource) int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return of(f)
}

func (f *fakeSource) Closed() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *fakeSource) Told() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.told, f.closed, f.compacted)
}

func (f *fakeSource) Passed(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed = rev
}

func (f *fakeSource) Floor() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.floor
}

func (f *fakeSource) ReplayTo() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keeps {
		return min(f.floor-1, f.closed)
	}
	return f.closed
}

func (f *fakeSource) Needs(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.needed = max(f.needed, rev)
}

func (f *fakeSource) Await(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awaited = max(f.awaited, rev)
}

func (f *fakeSource) Compacted() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.compacted
}

func (f *fakeSource) Advanced() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.advanced
}

func (f *fakeSource) Header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 11, MemberId: 12, RaftTerm: 13}
}

func (f *fakeSource) Done() <-chan struct{} { return f.done }

func (f *fakeSource) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeSource) rangeLocked(from, to int64) []*mergedlog.Event {
	at := func(rev int64) int {
		return sort.Search(len(f.events), func(i int) bool { return f.events[i].Rev >= rev })
	}
	return f.events[at(from):at(max(from, to+1))]
}

func (f *fakeSource) Since(from int64, maxEvents int) ([]*mergedlog.Event, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sinces++
	switch {
	case f.err != nil:
		return nil, from, f.err
	case from > f.closed:
		return nil, from, nil
	case from < f.floor:
		return nil, from, mergedlog.ErrEvicted
	}
	evs := f.rangeLocked(from, f.closed)
	next := f.closed + 1
	for n := maxEvents; n < len(evs); n++ {
		if evs[n].Rev != evs[n-1].Rev {
			next, evs = evs[n].Rev, evs[:n]
			break
		}
	}
	return append([]*mergedlog.Event(nil), evs...), next, nil
}

func (f *fakeSource) Replay(ctx context.Context, key, end []byte, from, to int64, fn func([]*mergedlog.Event) error) error {
	f.set(func(f *fakeSource) { f.replays++ })
	return f.replayOf(ctx, key, end, from, to, fn)
}

func (f *fakeSource) replayOf(ctx context.Context, key, end []byte, from, to int64, fn func([]*mergedlog.Event) error) error {
	g := group{key: key, end: end}
	for from <= to {
		f.mu.Lock()
		hook, compacted := f.replay, f.compacted
		var evs []*mergedlog.Event
		next := to + 1
		for _, ev := range f.rangeLocked(from, to) {
			if len(evs) > 0 && ev.Rev != evs[0].Rev {
				next = ev.Rev
				break
			}
			if len(end) == 0 && string(key) == string(ev.Kv.Key) || len(end) > 0 && g.contains(ev.Kv.Key) {
				evs = append(evs, ev)
			}
		}
		f.mu.Unlock()
		if from < compacted {
			return &CompactedError{Rev: compacted}
		}
		if hook != nil {
			if err := hook(from); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(evs); err != nil {
			return err
		}
		from = next
	}
	return nil
}

func (f *fakeSource) ReplayKey(ctx context.Context, key []byte, from, to int64, fn func([]*mergedlog.Event) error) (bool, error) {
	f.mu.Lock()
	refuse := f.noKeys
	f.mu.Unlock()
	if refuse {
		return false, nil
	}
	f.set(func(f *fakeSource) { f.replays++ })
	return true, f.replayOf(ctx, key, nil, from, to, fn)
}

// fixture is a hub over a fake source.
type fixture struct {
	t   testing.TB
	src *fakeSource
	hub *Hub
}

func setup(t testing.TB, opts Options) *fixture {
	src := newSource()
	hub := New(src, opts)
	t.Cleanup(hub.Close)
	return &fixture{t, src, hub}
}

// client is one watch stream.
type client struct {
	t      testing.TB
	cs     pb.Watch_WatchClient
	cancel context.CancelFunc
}

func (f *fixture) open() *client { return f.openFor(patience) }

func (f *fixture) openFor(d time.Duration) *client {
	ctx, cancel := context.WithTimeout(f.t.Context(), d)
	f.t.Cleanup(cancel)
	cs, err := bridge.WatchClient(f.hub).Watch(ctx)
	require.NoError(f.t, err)
	return &client{f.t, cs, cancel}
}

func createReq(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func cancelReq(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func progressReq() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

func (c *client) send(r *pb.WatchRequest) { require.NoError(c.t, c.cs.Send(r)) }

func (c *client) recv() *pb.WatchResponse {
	r, err := c.cs.Recv()
	require.NoError(c.t, err)
	return r
}

// watch creates a watcher and returns its Created.
func (c *client) watch(r *pb.WatchCreateRequest) *pb.WatchResponse {
	c.send(createReq(r))
	resp := c.recv()
	require.True(c.t, resp.Created)
	return resp
}

// events receives until n events have come, and returns them in etcdctl's manner.
func (c *client) events(n int) []string {
	var got []string
	for len(got) < n {
		r := c.recv()
		require.NotEmpty(c.t, r.Events, "%v", r)
		require.GreaterOrEqual(c.t, r.Header.Revision, r.Events[len(r.Events)-1].Kv.ModRevision)
		got = append(got, show(r)...)
	}
	require.Len(c.t, got, n)
	return got
}

// progress asks for progress and returns the answer, which must come next.
func (c *client) progress() int64 {
	c.send(progressReq())
	return c.progressAnswer()
}

func (c *client) progressAnswer() int64 {
	r := c.recv()
	require.True(c.t, isProgress(r) && r.WatchId == -1, "%v", r)
	return r.Header.Revision
}

func isProgress(r *pb.WatchResponse) bool {
	return len(r.Events) == 0 && !r.Created && !r.Canceled && r.CompactRevision == 0
}

func show(r *pb.WatchResponse) (s []string) {
	for _, ev := range r.Events {
		text := ev.Type.String() + " " + string(ev.Kv.Key)
		if ev.Type == mvccpb.Event_PUT {
			text += "=" + string(ev.Kv.Value)
		}
		if ev.PrevKv != nil {
			text += " was " + string(ev.PrevKv.Value)
		}
		s = append(s, text)
	}
	return s
}

var errBoom = errors.New("boom")

func eventually(t testing.TB, cond func() bool, msg string) {
	require.Eventually(t, cond, patience, time.Millisecond, msg)
}
