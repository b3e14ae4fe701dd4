package client

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestInstalledHandlesEnd: a client that was closed, or its connection, answers nothing any more, as with a server; other clients do.
func TestInstalledHandlesEnd(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	meta := cluster.Client(t)
	for name, end := range map[string]func(*clientv3.Client) error{
		"Close":                    (*clientv3.Client).Close,
		"ActiveConnection().Close": func(cli *clientv3.Client) error { return cli.ActiveConnection().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			cli := installed(t, cluster, meta)
			put(t, cli, "k", "v")
			lease, err := cli.Grant(within(t, patience), 60)
			require.NoError(t, err)
			alive, err := cli.KeepAlive(t.Context(), lease.ID)
			require.NoError(t, err)
			<-alive
			watch := cli.Watch(within(t, patience), "k", clientv3.WithCreatedNotify())
			require.True(t, takeResponse(t, watch).Created)
			kept := cli.KV // whoever keeps a handle keeps no way around
			require.NoError(t, end(cli))
			for what, call := range map[string]func(context.Context) error{
				"get":    func(ctx context.Context) error { _, err := kept.Get(ctx, "k"); return err },
				"stream": func(ctx context.Context) error { _, err := kept.GetStream(ctx, "k"); return err },
				"put":    func(ctx context.Context) error { _, err := cli.Put(ctx, "k", "w"); return err },
				"delete": func(ctx context.Context) error { _, err := cli.Delete(ctx, "k"); return err },
				"txn": func(ctx context.Context) error {
					_, err := cli.Txn(ctx).Then(clientv3.OpPut("k", "w")).Commit()
					return err
				},
				"compact": func(ctx context.Context) error {
					_, err := cli.Compact(ctx, 2)
					return err
				},
				"grant":  func(ctx context.Context) error { _, err := cli.Grant(ctx, 60); return err },
				"revoke": func(ctx context.Context) error { _, err := cli.Revoke(ctx, lease.ID); return err },
				"ttl":    func(ctx context.Context) error { _, err := cli.TimeToLive(ctx, lease.ID); return err },
				"leases": func(ctx context.Context) error { _, err := cli.Leases(ctx); return err },
				"alive":  func(ctx context.Context) error { _, err := cli.KeepAliveOnce(ctx, lease.ID); return err },
			} {
				err := call(within(t, patience))
				require.True(t, clientv3.IsConnCanceled(err), "%s: %v", what, err)
			}
			requireEnded(t, watch)
			require.Equal(t, []string{"k=v"}, list(t, meta))
		})
	}
}

// TestInstallOnAContextOfItsOwn: as with a server, the context that a client was made with ends no requests; one that has no connection
// has nothing else.
func TestInstallOnAContextOfItsOwn(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	meta := cluster.Client(t)
	ctx, cancel := context.WithCancel(t.Context())
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{cluster.Members[0].Endpoint()}, Context: ctx})
	require.NoError(t, err)
	defer func() { _ = cli.Close() }()
	bare := clientv3.NewCtxClient(ctx)
	meta.Install(cli)
	meta.Install(bare)
	put(t, bare, "k", "v")
	cancel()
	put(t, cli, "k", "w")
	_, err = bare.Put(within(t, patience), "k", "x")
	require.True(t, clientv3.IsConnCanceled(err), "%v", err)
}
