// Package limits shows that a meta cluster needs no more of its members than it says.
package limits

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestLeastTxnOps: members that take 20 operations in a transaction are enough for everything: creation, batches, compares of
// many keys, transactions on many keys of several members and of one, and the end of a lease with many keys.
func TestLeastTxnOps(t *testing.T) {
	const ops, keys = 20, 100
	cluster := metaetcdtest.New(t, 2, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(metaetcd.Sharding{Segments: 1, Slots: 64}),
		metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) {
			if cfg.Name != "coordinator" {
				cfg.MaxTxnOps = ops
			}
		}))
	open := func() *metaetcd.Client {
		cfg := cluster.Config()
		cfg.MemberTxnOps = ops
		cli, err := metaetcd.New(soon(t), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, cli.Close()) })
		return cli
	}
	cli := open()
	for _, key := range []func(i int) string{
		func(i int) string { return fmt.Sprint(i, "/k") },    // spread
		func(i int) string { return fmt.Sprint("one/k", i) }, // on one member
	} {
		lease, err := cli.Grant(soon(t), 60)
		require.NoError(t, err)
		var create, compare, leased []clientv3.Op
		var unchanged []clientv3.Cmp
		for i := range keys {
			create = append(create, clientv3.OpPut(key(i), "v"))
			compare = append(compare, clientv3.OpPut(key(i), "w"))
			leased = append(leased, clientv3.OpPut(key(i), "x", clientv3.WithLease(lease.ID)))
			unchanged = append(unchanged, clientv3.Compare(clientv3.ModRevision(key(i)), ">", 0))
		}
		for _, txn := range []clientv3.Txn{
			cli.Txn(soon(t)).Then(create...), cli.Txn(soon(t)).If(unchanged...).Then(compare...), cli.Txn(soon(t)).Then(leased...),
		} {
			resp, err := txn.Commit()
			require.NoError(t, err)
			require.True(t, resp.Succeeded)
		}
		_, err = cli.Revoke(soon(t), lease.ID)
		require.NoError(t, err)
		left, err := cli.Get(soon(t), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.Zero(t, left.Count)
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
