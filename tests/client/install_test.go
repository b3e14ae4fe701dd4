package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// lazy is a client that has not connected yet.
func lazy(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// installed is a client of member 0 with the meta cluster installed.
func installed(t *testing.T, cluster *metaetcdtest.Cluster, meta *metaetcd.Client) *clientv3.Client {
	t.Helper()
	cli := lazy(t, cluster.Members[0].Endpoint())
	meta.Install(cli)
	return cli
}

func TestInstall(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	meta := cluster.Client(t)
	a, b := installed(t, cluster, meta), installed(t, cluster, meta)

	// Requests and watches are the meta cluster's …
	watches := []clientv3.WatchChan{
		a.Watch(t.Context(), "k", clientv3.WithPrefix()), b.Watch(t.Context(), "k", clientv3.WithPrefix()), meta.Watch(t.Context(), "k", clientv3.WithPrefix()),
	}
	rev := put(t, a, "k1", "a")
	require.EqualValues(t, 2, rev)
	require.EqualValues(t, 3, put(t, b, "k2", "b"))
	for _, kv := range []clientv3.KV{a, b, meta} {
		require.Equal(t, []string{"k1=a", "k2=b"}, list(t, kv))
	}
	for _, w := range watches {
		require.Equal(t, []string{"2 k1=a", "3 k2=b"}, describe(take(t, w, 2)))
	}
	// … and everything else is the real server's.
	require.Equal(t, []string{cluster.Members[0].Endpoint()}, a.Endpoints())
	status, err := a.Status(within(t, patience), a.Endpoints()[0])
	require.NoError(t, err)
	require.NotEqual(t, status.Header.ClusterId, clusterID(t, a))
	native := cluster.Members[0].DirectClient(t)
	require.Equal(t, status.Header.ClusterId, clusterID(t, native))
	members, err := a.MemberList(within(t, patience))
	require.NoError(t, err)
	require.Len(t, members.Members, 1)

	// Closing a client ends its own watches and nobody else's.
	require.NoError(t, a.Close())
	requireEnded(t, watches[0])
	put(t, b, "k3", "b")
	for _, w := range watches[1:] {
		require.Equal(t, []string{"4 k3=b"}, describe(take(t, w, 1)))
	}
	require.NoError(t, b.Watcher.Close())
	requireEnded(t, watches[1])
	put(t, meta, "k4", "meta")
	require.Equal(t, []string{"5 k4=meta"}, describe(take(t, watches[2], 1)))
	require.Len(t, list(t, b), 4, "a closed Watcher leaves the KV")

	// The handles of a client end with the meta cluster's client.
	c := installed(t, cluster, meta)
	w := c.Watch(t.Context(), "k", clientv3.WithPrefix())
	put(t, c, "k5", "c")
	take(t, w, 1)
	require.NoError(t, meta.Close())
	requireEnded(t, w)
	_, err = c.Put(within(t, patience), "k6", "c")
	require.ErrorIs(t, err, metaetcd.ErrClosed)
	_, err = c.Status(within(t, patience), c.Endpoints()[0])
	require.NoError(t, err)
}

// TestInstallNeedsNoServer: what a client is for, after Install, does not go through its own connection.
func TestInstallNeedsNoServer(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	nowhere := lazy(t, "127.0.0.1:1")
	cluster.Client(t).Install(nowhere)
	w := nowhere.Watch(t.Context(), "k")
	put(t, nowhere, "k", "v")
	require.Equal(t, []string{"k=v"}, list(t, nowhere))
	require.Equal(t, []string{"2 k=v"}, describe(take(t, w, 1)))
}

func clusterID(t *testing.T, kv clientv3.KV) uint64 {
	t.Helper()
	resp, err := kv.Get(within(t, patience), "k")
	require.NoError(t, err)
	return resp.Header.ClusterId
}

// requireEnded fails the test unless a watch's channel is closed soon.
func requireEnded(t *testing.T, w clientv3.WatchChan) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case resp, ok := <-w:
			if !ok {
				return
			}
			require.Empty(t, resp.Events)
		case <-timeout:
			require.FailNow(t, "the watch did not end")
		}
	}
}
