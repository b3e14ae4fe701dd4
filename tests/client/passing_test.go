package client

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// New meets a leader change in each of its requests, in turn, and does not mind.
func TestNewWaitsForLeaderChanges(t *testing.T) {
	var left atomic.Int32 // requests until the one that fails
	hop := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if left.Add(-1) == 0 {
			return rpctypes.ErrGRPCLeaderChanged
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	cluster := newCluster(t, 2, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(hop))
	}))
	first := cluster.Client(t)
	put(t, first, "k", "v")
	_, err := first.Grant(within(t, patience), 600)
	require.NoError(t, err)
	for n := int32(1); ; n++ {
		left.Store(1 << 30)
		cfg := cluster.Config()
		require.NoError(t, first.Close()) // what it asks does not count
		left.Store(n)
		cli, err := metaetcd.New(within(t, patience), cfg)
		met := left.Load() <= 0
		require.NoError(t, err, "request %d", n)
		require.NoError(t, cli.Close())
		if !met {
			require.Greater(t, n, int32(8))
			return
		}
	}
}
