package metaetcdtest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestClientsShareTheCluster(t *testing.T) {
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	require.Len(t, cluster.Nodes(), 4)
	a, b := cluster.Client(t), cluster.Client(t)

	put, err := a.Put(t.Context(), "/k", "v")
	require.NoError(t, err)
	get, err := b.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Len(t, get.Kvs, 1)
	require.Equal(t, put.Header.Revision, get.Kvs[0].ModRevision)
}

func TestConfigsAreIndependent(t *testing.T) {
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithUnsafeNoFsync())
	a, b := cluster.Config(), cluster.DirectConfig()
	require.NoError(t, a.Coordinator.Close())
	require.NoError(t, a.Members[0].Client.Close())

	cli, err := metaetcd.New(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, cli.Close())
}

func TestClientEndsWithItsTest(t *testing.T) {
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithUnsafeNoFsync())
	var cli *metaetcd.Client
	t.Run("inner", func(t *testing.T) { cli = cluster.Client(t) })
	_, err := cli.Put(t.Context(), "/k", "v")
	require.Error(t, err)
}

func TestEtcdConfigIsAdjusted(t *testing.T) {
	const limit = 4 << 10
	n := metaetcdtest.Plain(t, metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) { cfg.MaxRequestBytes = limit }))
	_, err := n.Client(t).Put(t.Context(), "k", strings.Repeat("v", 2*limit))
	require.ErrorContains(t, err, "too large")
}

func TestShardingReachesTheConfig(t *testing.T) {
	s := metaetcd.Sharding{Segments: 2, Separator: '.'}
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithSharding(s), metaetcdtest.WithUnsafeNoFsync())
	require.Equal(t, s, cluster.Config().Sharding)
}
