package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// hook sees the transactions of one process on their way to a cluster: it may hold one up before it calls send, and say what
// comes of it.
type hook func(ctx context.Context, req *pb.TxnRequest, send func() error) error

// tap is between one process and one cluster.
type tap struct {
	hook atomic.Pointer[hook]

	mu      sync.Mutex
	stopped chan struct{} // watches show nothing; closed when they break off
}

func (p *tap) on(h hook) { p.hook.Store(&h) }

// stopWatches lets watches show nothing until resume is called. They break off then.
func (p *tap) stopWatches() (resume func()) {
	stopped := make(chan struct{})
	p.mu.Lock()
	p.stopped = stopped
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.stopped = nil
		p.mu.Unlock()
		close(stopped)
	}
}

func (p *tap) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	send := func() error { return invoke(ctx, method, req, reply, cc, opts...) }
	if txn, ok := req.(*pb.TxnRequest); ok {
		if h := p.hook.Load(); h != nil {
			return (*h)(ctx, txn, send)
		}
	}
	return send()
}

func (p *tap) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	return tapped{s, p}, err
}

type tapped struct {
	grpc.ClientStream
	p *tap
}

func (s tapped) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.p.mu.Lock()
	stopped := s.p.stopped
	s.p.mu.Unlock()
	if stopped == nil || err != nil {
		return err
	}
	select {
	case <-stopped:
		return status.Error(codes.Unavailable, "the watch broke off")
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// dial opens a client of a cluster through a tap.
func (p *tap) dial(t *testing.T, node *metaetcdtest.Node) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: node.Endpoints(), DialOptions: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(p.unary), grpc.WithChainStreamInterceptor(p.stream),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// overrunProcess is a process whose log is about to be overtaken by compaction on the first member.
type overrunProcess struct {
	*metaetcd.Client
	coordinator, member tap
	keys                [2]string // on the first member by name, and on the other one
	adds                chan struct{}
	openings            chan struct{} // closed: the new log may open
	opening             chan struct{} // closed when the new log is about to look at the first member
	resume              func()
}

// newOverrun opens a process that wrote its keys once, lets another one write and compact behind the back of its streams, and holds
// up the stamps that it takes from now on, and the opening of its next log.
func newOverrun(t *testing.T, others ...string) *overrunProcess {
	t.Helper()
	cluster := newCluster(t, 2)
	first := cluster.Members[0]
	if cluster.Members[1].Name() < first.Name() {
		first = cluster.Members[1]
	}
	p := &overrunProcess{adds: make(chan struct{}), openings: make(chan struct{}), opening: make(chan struct{})}
	cfg := cluster.DirectConfig()
	cfg.Coordinator = p.coordinator.dial(t, cluster.Coordinator)
	for i := range cfg.Members {
		if cfg.Members[i].Name == first.Name() {
			cfg.Members[i].Client = p.member.dial(t, first)
		}
	}
	p.Client = open(t, cfg)
	for i, m := range cluster.Members {
		at := 1
		if m == first {
			at = 0
		}
		p.keys[at] = keyOn(t, cluster, i, "k")
		put(t, p, p.keys[at], "before")
	}

	p.resume = p.member.stopWatches()
	other, err := metaetcd.New(within(t, patience), cluster.DirectConfig())
	require.NoError(t, err)
	var rev int64
	for i := range 10 {
		rev = put(t, other, p.keys[0]+"/other", fmt.Sprint(i))
	}
	for _, key := range others {
		rev = put(t, other, key, "other")
	}
	_, err = other.Compact(within(t, patience), rev)
	require.NoError(t, err)
	require.NoError(t, other.Close())

	p.coordinator.on(func(ctx context.Context, req *pb.TxnRequest, send func() error) error {
		if len(req.Success) > 0 && req.Success[0].GetRequestPut() != nil {
			return after(ctx, p.adds, send)
		}
		return send()
	})
	var once sync.Once
	p.member.on(func(ctx context.Context, req *pb.TxnRequest, send func() error) error {
		switch {
		case opens(req):
			once.Do(func() { close(p.opening) })
			return after(ctx, p.openings, send)
		case lands(req):
			if err := send(); err != nil {
				return err
			}
			p.member.on(func(ctx context.Context, req *pb.TxnRequest, send func() error) error {
				if opens(req) {
					return after(ctx, p.openings, send)
				}
				return send()
			})
			defer close(p.openings)
			return status.Error(codes.Unavailable, "the answer was lost")
		}
		return send()
	})
	return p
}

// overtake lets the request that was begun meanwhile land while the new log is being opened, and its answer get lost.
func (p *overrunProcess) overtake(t *testing.T) {
	t.Helper()
	p.resume()
	select {
	case <-p.opening:
	case <-within(t, patience).Done():
		require.FailNow(t, "no log is opened")
	}
	close(p.adds)
}

func after(ctx context.Context, gate <-chan struct{}, send func() error) error {
	select {
	case <-gate:
		return send()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// opens reports whether a transaction reads where a log begins.
func opens(req *pb.TxnRequest) bool {
	return len(req.Success) > 3 && string(req.Success[3].GetRequestRange().GetKey()) == record.KeyLock
}

// lands reports whether a transaction writes a user's key.
func lands(req *pb.TxnRequest) bool {
	for _, op := range req.Success {
		if put := op.GetRequestPut(); put != nil && record.KindOf(put.Key) == record.User {
			return true
		}
		if nested := op.GetRequestTxn(); nested != nil && lands(nested) {
			return true
		}
	}
	return false
}

// TestLandedWhileTheLogIsOpened: a write lands behind the log that compaction has overtaken, and before the next one begins. No stream
// shows it, its answer is lost, and it took effect all the same, once.
func TestLandedWhileTheLogIsOpened(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(ctx context.Context, p *overrunProcess) error{
		"put": func(ctx context.Context, p *overrunProcess) error {
			_, err := p.Put(ctx, p.keys[0], "after")
			return err
		},
		"compare and swap": func(ctx context.Context, p *overrunProcess) error {
			resp, err := p.Txn(ctx).If(clientv3.Compare(clientv3.Version(p.keys[0]), "=", 1)).Then(clientv3.OpPut(p.keys[0], "after")).Commit()
			if err == nil && !resp.Succeeded {
				err = fmt.Errorf("it took effect, and was answered as failed")
			}
			return err
		},
		"across members": func(ctx context.Context, p *overrunProcess) error {
			resp, err := p.Txn(ctx).If(clientv3.Compare(clientv3.Version(p.keys[0]), "=", 1), clientv3.Compare(clientv3.Version(p.keys[1]), "=", 1)).
				Then(clientv3.OpPut(p.keys[0], "after"), clientv3.OpPut(p.keys[1], "after")).Commit()
			if err == nil && !resp.Succeeded {
				err = fmt.Errorf("it took effect, and was answered as failed")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newOverrun(t)
			done := make(chan error, 1)
			go func() { done <- do(within(t, patience), p) }()
			p.overtake(t)
			require.NoError(t, <-done)
			resp, err := p.Get(within(t, patience), p.keys[0])
			require.NoError(t, err)
			require.Equal(t, "after", string(resp.Kvs[0].Value))
			require.EqualValues(t, 2, resp.Kvs[0].Version)
		})
	}
}
