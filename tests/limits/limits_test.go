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
	cfg := cluster.Config()
	cfg.MemberTxnOps = ops
	cli, err := metaetcd.New(soon(t), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, cli.Close()) }()
	for _, key := range []func(i int) string{
		func(i int) string { return fmt.Sprint(i, "/k") },    // spread
		func(i int) string { return fmt.Sprint("one/k", i) }, // on one member
	} {
		lease, err := cli.Grant(soon(t), 60)
		require.NoError(t, err)
		for from := 0; from < 3*keys; from += keys {
			var create, change, attach []clientv3.Op
			var there []clientv3.Cmp
			for i := from; i < from+keys; i++ {
				create = append(create, clientv3.OpPut(key(i), "v"))
				change = append(change, clientv3.OpPut(key(i), "w"))
				attach = append(attach, clientv3.OpPut(key(i), "x", clientv3.WithLease(lease.ID)))
				there = append(there, clientv3.Compare(clientv3.ModRevision(key(i)), ">", 0))
			}
			for _, txn := range []clientv3.Txn{
				cli.Txn(soon(t)).Then(create...), cli.Txn(soon(t)).If(there...).Then(change...), cli.Txn(soon(t)).Then(attach...),
			} {
				resp, err := txn.Commit()
				require.NoError(t, err)
				require.True(t, resp.Succeeded)
			}
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
