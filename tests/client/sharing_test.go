package client

import (
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestAnswersAreTheReceivers: what one receiver appends to what it got is no other's business, as over a connection.
func TestAnswersAreTheReceivers(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	cli := cluster.Client(t)
	const n = 3
	var watches []clientv3.WatchChan
	for range n {
		watches = append(watches, cli.Watch(t.Context(), "key", clientv3.WithPrevKV()))
	}
	put(t, cli, "key", "old")
	put(t, cli, "key", "new")
	var got []*mvccpb.KeyValue
	for _, w := range watches {
		evs := take(t, w, 2)
		got = append(got, evs[0].Kv, evs[1].Kv, evs[1].PrevKv)
	}
	for range n {
		one, err := cli.Get(within(t, patience), "key")
		require.NoError(t, err)
		all, err := cli.Get(within(t, patience), "", clientv3.WithPrefix())
		require.NoError(t, err)
		old, err := cli.Get(within(t, patience), "key", clientv3.WithRev(2))
		require.NoError(t, err)
		txn, err := cli.Txn(within(t, patience)).Then(clientv3.OpGet("key")).Commit()
		require.NoError(t, err)
		got = append(got, one.Kvs[0], all.Kvs[0], old.Kvs[0], txn.Responses[0].GetResponseRange().Kvs[0])
	}
	for i, kv := range got {
		suffix := string(rune('a' + i))
		kv.Key, kv.Value = append(kv.Key, suffix...), append(kv.Value, suffix...)
	}
	for i, kv := range got {
		suffix := string(rune('a' + i))
		require.Equal(t, "key"+suffix, string(kv.Key))
		require.Contains(t, []string{"old" + suffix, "new" + suffix}, string(kv.Value))
	}
}
