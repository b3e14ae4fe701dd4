package feed

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// world is a meta cluster of two members, for a bubble of synctest.
type world struct {
	t       *testing.T
	members []*etcdfake.Server
	streams []*streams
	cfg     *Config

	slow   time.Duration     // what the opening's reads of members take
	onStep func(what string) // may be nil

	mu    sync.Mutex
	steps []string // what the opening asked for
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	life := lifetime.New(t.Context())
	r, err := ring.New([]string{"a", "b"}, 16, ring.Policy{})
	require.NoError(t, err)
	w.cfg = &Config{
		Life: life, Ring: r, Cache: statecache.New(100), Doubts: mergedlog.NewDoubts(2, r.Slot),
		MaxTxnOps: 128, Timeout: time.Second, Logger: zap.NewNop(),
		Holds: func(int64) bool { return false }, OnFence: func() {},
		Settle:   func(context.Context, *Feed, int64) error { w.step("settle"); return nil },
		Resolver: func(*Feed) Resolver { return idle{} },
	}
	w.cfg.Feeds = NewCurrent(life, Identity{Epoch: func() int64 { return w.cfg.Clock.Epoch() }})
	clocks := clock.Config{Coordinator: etcdfake.New(100).Client(nil), ClusterID: 7, CoordinatorID: 100, Highest: w.cfg.Feeds.Highest}
	leases := lease.Config{MaxTxnOps: 128, Logger: zap.NewNop(), Watch: func() clientv3.Watcher { return nil }}
	for i, name := range r.Names() {
		s := etcdfake.New(uint64(i + 1))
		st := &streams{changed: make(chan struct{}), broken: make(chan struct{}), opened: func() { w.step("stream " + name) }}
		s.Watch(st.add)
		w.members, w.streams = append(w.members, s), append(w.streams, st)
		for key, value := range map[string][]byte{
			record.KeyFence: record.Pair(0, 0), record.KeyClock: record.ClockRecord{Highest: 1}.Value(), record.KeyCompacted: record.Number(0), record.KeyLock: {},
		} {
			w.txn(i, request.Put(&pb.PutRequest{Key: []byte(key), Value: value}))
		}
		m := member.New(member.Config{
			Index: i, Name: name, KV: s.Client(w.note(name)), Watches: func() pb.WatchClient { return bridge.WatchClient(st) },
			Life: life, Timeout: time.Second, MaxTxnOps: 128, Logger: zap.NewNop(),
			Stopped: func() error { return nil }, Reached: w.cfg.Doubts.Reached, Seen: func(int, string, error) {},
		})
		w.cfg.Members = append(w.cfg.Members, m)
		clocks.Members = append(clocks.Members, clock.Member{Name: name, KV: s.Client(nil)})
		leases.Members = append(leases.Members, lease.Member{Name: name, Txn: m.Txn})
	}
	w.cfg.CompactedOn = w.cfg.Members[0]
	w.cfg.Clock = clock.New(clocks)
	t.Cleanup(w.cfg.Clock.Close)
	require.NoError(t, w.cfg.Clock.Open(t.Context()))
	leases.Clock = w.cfg.Clock
	w.cfg.Leases = lease.New(leases)
	t.Cleanup(w.cfg.Leases.Close)
	return w
}

// open opens a feed that ends with the test.
func (w *world) open() *Feed {
	f, err := Open(w.t.Context(), w.cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(f.Close)
	return f
}

func (w *world) step(what string) {
	if w.onStep != nil {
		w.onStep(what)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, what)
}

// note notes what a member is asked for.
func (w *world) note(name string) etcdfake.Interceptor {
	return func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if t, ok := req.(*pb.TxnRequest); ok {
			key := t.Success[0].GetRequestRange().GetKey()
			leases, _ := record.LeaseRange()
			switch {
			case t.Success[0].GetRequestPut() != nil:
				w.step("fence " + name)
			case string(key) == record.KeyFence:
				w.step("records " + name)
				time.Sleep(w.slow)
			case bytes.Equal(key, leases):
				w.step("leases " + name)
				time.Sleep(w.slow)
			}
		}
		return do()
	}
}

func (w *world) txn(member int, ops ...*pb.RequestOp) {
	_, err := w.members[member].Client(nil).Txn(w.t.Context(), &pb.TxnRequest{Success: ops})
	require.NoError(w.t, err)
}

// write lands a new key with a new stamp on a member, and returns the stamp.
func (w *world) write(member int, key string) int64 {
	stamp, land := w.take(member, key)
	land()
	return stamp
}

// take is write in two steps: it takes the stamp, and land lands the key.
func (w *world) take(member int, key string) (stamp int64, land func()) {
	stamp, epoch, err := w.cfg.Clock.Take(w.t.Context(), 1)
	require.NoError(w.t, err)
	return stamp, func() { w.txn(member, landing(key, epoch, stamp)...) }
}

// landing is how a new key lands.
func landing(key string, epoch, stamp int64) []*pb.RequestOp {
	h := record.Header{Stamp: stamp, Create: stamp}
	e := manifest.Entry{Stamp: stamp, Kind: manifest.Landed, Names: []manifest.Name{{Touch: manifest.Put, Key: []byte(key)}}}
	clock := record.ClockRecord{Epoch: epoch, Highest: stamp}
	return []*pb.RequestOp{
		request.Put(&pb.PutRequest{Key: []byte(key), Value: h.Value([]byte("v"))}),
		request.Put(&pb.PutRequest{Key: []byte(record.KeyClock), Value: clock.Value()}),
		request.Put(&pb.PutRequest{Key: []byte(record.KeyManifest), Value: manifest.Encode(e)}),
	}
}

// idle is a Resolver for feeds without locks.
type idle struct{}

func (idle) Run(ctx context.Context) { <-ctx.Done() }
func (idle) Kick()                   {}

// streams is the Watch service of a member.
type streams struct {
	pb.UnimplementedWatchServer
	opened func()

	mu        sync.Mutex
	events    []*mvccpb.Event
	changed   chan struct{} // closed with the next event, or compaction
	broken    chan struct{} // closed to break off the streams that there are
	compacted int64
	asked     []int64 // start revisions
}

func (s *streams) add(_ int64, evs []*mvccpb.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, evs...)
	close(s.changed)
	s.changed = make(chan struct{})
}

// breakOff breaks off all streams; those that are opened again find the history compacted at a revision (0: not).
func (s *streams) breakOff(compacted int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = compacted
	close(s.broken)
	s.broken = make(chan struct{})
}

// after returns the events from a revision on, as one response, and what to wait for.
func (s *streams) after(from int64) (*pb.WatchResponse, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &pb.WatchResponse{Header: &pb.ResponseHeader{}}
	if from < s.compacted {
		resp.Canceled, resp.CompactRevision = true, s.compacted
	}
	for _, ev := range s.events {
		if ev.Kv.ModRevision >= from {
			resp.Events = append(resp.Events, proto.CloneOf(ev))
		}
	}
	return resp, s.changed
}

func (s *streams) Watch(stream pb.Watch_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	from := req.GetCreateRequest().StartRevision
	s.mu.Lock()
	s.asked = append(s.asked, from)
	broken := s.broken
	s.mu.Unlock()
	s.opened()
	pinged, ctx := make(chan struct{}), stream.Context()
	go func() { // it ends with the stream
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
			select {
			case pinged <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := stream.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{}, Created: true}); err != nil {
		return err
	}
	for {
		resp, changed := s.after(from)
		if len(resp.Events) > 0 || resp.Canceled {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		if n := len(resp.Events); n > 0 {
			from = resp.Events[n-1].Kv.ModRevision + 1
		}
		select {
		case <-changed:
		case <-pinged:
			if err := stream.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{}}); err != nil {
				return err
			}
		case <-broken:
			return status.Error(codes.Unavailable, "broken")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
