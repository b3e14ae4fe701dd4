package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// renewals counts the keep-alives that a client sends, by stream and lease.
type renewals struct {
	mu      sync.Mutex
	streams []map[int64]int
}

func (r *renewals) intercept(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil || method != pb.Lease_LeaseKeepAlive_FullMethodName {
		return s, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := map[int64]int{}
	r.streams = append(r.streams, sent)
	return &countedStream{s, r, sent}, nil
}

type countedStream struct {
	grpc.ClientStream
	r    *renewals
	sent map[int64]int
}

func (s *countedStream) SendMsg(m any) error {
	if req, ok := m.(*pb.LeaseKeepAliveRequest); ok {
		s.r.mu.Lock()
		s.sent[req.ID]++
		s.r.mu.Unlock()
	}
	return s.ClientStream.SendMsg(m)
}

// all is how many renewals were sent, and on how many streams.
func (r *renewals) all() (sent, streams int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.streams {
		for _, n := range s {
			sent += n
		}
	}
	return sent, len(r.streams)
}

// TestKeepAlivesThroughAnOutage: the coordinator falls silent while clients ask again and again for keep-alives. Each lease is renewed
// for the first of them, and for all others together when it is back; and once more for each stream that broke.
func TestKeepAlivesThroughAnOutage(t *testing.T) {
	t.Parallel()
	const leases, asked = 30, 20
	cluster := newCluster(t, 1)
	r := &renewals{}
	coordinator, err := clientv3.New(clientv3.Config{
		Endpoints: cluster.Coordinator.Endpoints(), Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithStreamInterceptor(r.intercept)},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = coordinator.Close() })
	cfg := cluster.Config()
	cfg.Coordinator = coordinator
	m := open(t, cfg)
	var ids []clientv3.LeaseID
	for range leases {
		l, err := m.Grant(t.Context(), 600)
		require.NoError(t, err)
		ids = append(ids, l.ID)
	}
	var clients errgroup.Group
	ask := func() {
		for _, id := range ids {
			clients.Go(func() error {
				resp, err := m.KeepAliveOnce(within(t, patience), id)
				if err == nil && resp.TTL != 600 {
					err = fmt.Errorf("lease %x has %d seconds", id, resp.TTL)
				}
				return err
			})
		}
	}
	ask()
	require.NoError(t, clients.Wait())
	cluster.Coordinator.Cut()
	for range asked {
		ask()
		time.Sleep(10 * time.Millisecond) // several requests for each of them are made one after the other
	}
	cluster.Coordinator.Heal()
	require.NoError(t, clients.Wait())
	sent, streams := r.all()
	require.LessOrEqual(t, sent, leases*(3+streams), "of %d requests", leases*(1+asked))
}
