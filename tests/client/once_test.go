package client

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// hop loses answers to transactions, after they were applied, in the way of a proxy that gives up.
type hop struct{ loses atomic.Bool }

func (h *hop) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if _, ok := req.(*pb.TxnRequest); ok && h.loses.CompareAndSwap(true, false) {
		return status.Error(codes.Canceled, "the hop gave up")
	}
	return err
}

// Whatever the borrowed clients do with answers that are lost, a put is one event, and a compare-and-swap does not fail because
// of itself.
func TestLostAnswersDoNotRepeatWrites(t *testing.T) {
	var h hop
	cluster := newCluster(t, 2, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(h.intercept))
	}))
	cli := cluster.Client(t)
	key := keyOn(t, cluster, 0, "k")
	put(t, cli, key, "0")
	for n := int64(2); n < 8; n++ {
		h.loses.Store(true)
		if n%2 == 0 {
			put(t, cli, key, "x")
		} else {
			resp, err := cli.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Version(key), "=", n-1)).Then(clientv3.OpPut(key, "y")).Commit()
			require.NoError(t, err)
			require.True(t, resp.Succeeded, "the transaction failed against itself")
		}
		got, err := cli.Get(within(t, patience), key)
		require.NoError(t, err)
		require.Equal(t, n, got.Kvs[0].Version)
	}
	// Transactions across members send more of them.
	other := keyOn(t, cluster, 1, "o")
	for n := int64(1); n < 8; n++ {
		h.loses.Store(true)
		resp, err := cli.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Version(other), "=", n-1)).
			Then(clientv3.OpPut(key, "z"), clientv3.OpPut(other, "z")).Commit()
		require.NoError(t, err)
		require.True(t, resp.Succeeded)
	}
	got, err := cli.Get(within(t, patience), key)
	require.NoError(t, err)
	require.EqualValues(t, 14, got.Kvs[0].Version)
}

// Clusters that demand a password: a server that has restarted has forgotten the tokens, and one whose users have changed
// refuses those that are older.
func TestTokensAreRefreshed(t *testing.T) {
	cheap := metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) { cfg.BcryptCost = 4 }) // the race detector makes hashing slow
	cluster := newCluster(t, 1, cheap, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.Username, cfg.Password = "root", "secret"
	}))
	plain := func(n *metaetcdtest.Node) *clientv3.Client {
		cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = cli.Close() })
		return cli
	}
	for _, n := range cluster.Nodes() {
		cli := plain(n)
		_, err := cli.UserAdd(within(t, patience), "root", "secret")
		require.NoError(t, err)
		_, err = cli.UserGrantRole(within(t, patience), "root", "root")
		require.NoError(t, err)
		_, err = cli.AuthEnable(within(t, patience))
		require.NoError(t, err)
	}
	cli := cluster.Client(t)
	put(t, cli, "k", "0")
	for _, n := range cluster.Nodes() {
		n.Stop()
		n.Start()
		put(t, cli, "k", "forgotten")
	}
	for _, n := range cluster.Nodes() {
		_, err := n.Client(t).UserAdd(within(t, patience), "somebody", "else")
		require.NoError(t, err)
		put(t, cli, "k", "older")
	}
	got, err := cli.Get(within(t, patience), "k")
	require.NoError(t, err)
	require.EqualValues(t, 5, got.Kvs[0].Version)
}
