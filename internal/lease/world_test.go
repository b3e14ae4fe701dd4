package lease

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

const (
	epoch    = 5
	epochKey = "\x00metaetcd/clock/epoch"
)

// world is a coordinator, which works in epoch, and members.
type world struct {
	t           *testing.T
	coordinator *etcdfake.Server
	timers      *timers
	members     []*etcdfake.Server
}

func newWorld(t *testing.T, members int) *world {
	w := &world{t: t, coordinator: etcdfake.New(100)}
	w.timers = &timers{server: w.coordinator, ttl: map[int64]int64{}}
	put(t, w.coordinator, epochKey, "5")
	for i := range members {
		w.members = append(w.members, etcdfake.New(uint64(i+1)))
		put(t, w.members[i], record.KeyFence, string(record.Pair(epoch, 0)))
	}
	return w
}

func put(t *testing.T, s *etcdfake.Server, key, value string) {
	t.Helper()
	_, err := s.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(t, err)
}

// open starts a process; its requests to the members go through via, which may be nil.
func (w *world) open(via etcdfake.Interceptor, adjust ...func(*Config)) *Lessor {
	cfg := Config{
		Clock: w, KV: w.coordinator.Client(nil), Lease: w.timers, MaxTxnOps: 128, Logger: zap.NewNop(),
		Delete: func(_ context.Context, keys []Attached) (int64, error) {
			return 1, w.remove(keys)
		},
		Watch: func() clientv3.Watcher { return silent{} },
	}
	for i, m := range w.members {
		kv := m.Client(via)
		cfg.Members = append(cfg.Members, Member{Name: fmt.Sprint("m", i), Txn: func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			requireFollowed(w.t, req.Success)
			requireFollowed(w.t, req.Failure)
			return kv.Txn(ctx, req)
		}})
	}
	for _, a := range adjust {
		a(&cfg)
	}
	l := New(cfg)
	w.t.Cleanup(l.Close)
	return l
}

// requireFollowed demands that operations which write anything write, in any case, a record that everybody follows: what others
// did not follow would look like somebody else's.
func requireFollowed(t *testing.T, ops []*pb.RequestOp) {
	t.Helper()
	followed := func(op *pb.RequestOp) bool {
		return record.Followed(op.GetRequestPut().GetKey()) || record.Followed(op.GetRequestDeleteRange().GetKey())
	}
	if slices.ContainsFunc(ops, followed) {
		return
	}
	for _, op := range ops {
		if op.GetRequestPut() != nil || op.GetRequestDeleteRange() != nil {
			t.Errorf("only what nobody follows is written: %v", ops)
		}
		requireFollowed(t, op.GetRequestTxn().GetSuccess())
		requireFollowed(t, op.GetRequestTxn().GetFailure())
	}
}

// Present, Sync and EpochChanged make the world a Clock.
func (w *world) Present() (int64, []*pb.Compare) {
	return epoch, []*pb.Compare{request.ValueIs([]byte(epochKey), []byte("5"))}
}

func (w *world) Sync(ctx context.Context) (int64, error) { return epoch, ctx.Err() }

func (w *world) EpochChanged() <-chan struct{} { return nil }

// attach puts a key, attached to a lease, on a member.
func (w *world) attach(member int, key string, lease int64) {
	put(w.t, w.members[member], key, string(record.Header{Stamp: 10, Create: 10, Lease: lease}.Value(nil)))
	put(w.t, w.members[member], string(record.AttachedKey(lease, []byte(key))), "")
}

// remove deletes keys and the entries that name them.
func (w *world) remove(keys []Attached) error {
	for _, m := range w.members {
		for _, k := range keys {
			h, _, err := record.ParseHeader(m.Get(string(k.Key)))
			if err != nil {
				continue // on another member
			}
			for _, name := range [][]byte{k.Key, record.AttachedKey(h.Lease, k.Key)} {
				if _, err := m.Client(nil).DeleteRange(w.t.Context(), &pb.DeleteRangeRequest{Key: name}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// records counts the records of a lease on the members.
func (w *world) records(id int64) (n int) {
	for _, m := range w.members {
		if m.Get(string(record.LeaseKey(id))) != nil {
			n++
		}
	}
	return n
}

// sentinels counts them.
func (w *world) sentinels() (n int) {
	for _, k := range w.coordinator.Keys() {
		if strings.HasPrefix(k, sentinelPrefix) {
			n++
		}
	}
	return n
}

// silent is a watcher to whom nothing is shown.
type silent struct{ clientv3.Watcher }

func (silent) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	return make(chan clientv3.WatchResponse)
}

func (silent) Close() error { return nil }

// timers are the native leases of the coordinator.
type timers struct {
	pb.LeaseClient
	server *etcdfake.Server

	mu      sync.Mutex
	ttl     map[int64]int64
	left    func(id int64) int64 // what LeaseTimeToLive says; nil: the whole TTL
	granted func(id int64)       // called after a grant, which may end leases; may be nil
}

func (l *timers) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	l.mu.Lock()
	_, there := l.ttl[r.ID]
	if there {
		l.mu.Unlock()
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	l.ttl[r.ID] = r.TTL
	l.server.Grant(r.ID)
	l.mu.Unlock()
	if l.granted != nil {
		l.granted(r.ID)
	}
	return &pb.LeaseGrantResponse{ID: r.ID, TTL: r.TTL}, nil
}

func (l *timers) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ttl, there := l.ttl[r.ID]
	switch {
	case !there:
		return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
	case l.left != nil:
		return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: l.left(r.ID), GrantedTTL: ttl}, nil
	}
	return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: ttl, GrantedTTL: ttl}, nil
}

func (l *timers) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	if !l.end(r.ID) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &pb.LeaseRevokeResponse{}, nil
}

// end is also what happens when a timer runs out.
func (l *timers) end(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ttl, id)
	return l.server.End(id)
}
