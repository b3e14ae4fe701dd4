package client

import (
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestWhatChangesNothingTakesNoRevision: also of keys that the process knows nothing of.
func TestWhatChangesNothingTakesNoRevision(t *testing.T) {
	cluster := newCluster(t, 2)
	writer := open(t, cluster.Config())
	there := keyOn(t, cluster, 0, "there")
	put(t, writer, there, "v")
	before := put(t, writer, there, "v")
	now := before // the newest revision
	txn := func(cmp clientv3.Cmp, then ...clientv3.Op) func(kv clientv3.KV) (int64, error) {
		return func(kv clientv3.KV) (int64, error) {
			resp, err := kv.Txn(t.Context()).If(cmp).Then(then...).Commit()
			if err != nil {
				return 0, err
			}
			return resp.Header.Revision, nil
		}
	}
	write := clientv3.OpPut(there, "w")
	for name, nothing := range map[string]func(kv clientv3.KV) (int64, error){
		"delete": func(kv clientv3.KV) (int64, error) {
			resp, err := kv.Delete(t.Context(), "nothing here")
			if err != nil {
				return 0, err
			}
			return resp.Header.Revision, nil
		},
		"delete in a transaction": txn(clientv3.Compare(clientv3.Version(there), ">", 0), clientv3.OpDelete("nor here")),
		"compare of a value":      txn(clientv3.Compare(clientv3.Value(there), "=", "other"), write),
		"compare of a version":    txn(clientv3.Compare(clientv3.Version(there), "=", 700), write),
		"compare of a revision":   txn(clientv3.Compare(clientv3.ModRevision(there), "=", before-1), write),
		"compare of a lease":      txn(clientv3.Compare(clientv3.LeaseValue(there), "=", 7), write),
		"nested": txn(clientv3.Compare(clientv3.Version(there), ">", 0),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(there), "<", before)}, []clientv3.Op{write}, []clientv3.Op{clientv3.OpDelete("nowhere")})),
	} {
		cold := open(t, cluster.Config())
		rev, err := nothing(cold)
		require.NoError(t, err, name)
		require.Equal(t, now, rev, name)
		_, err = cold.Put(t.Context(), "nothing there", "v", clientv3.WithIgnoreValue())
		require.Error(t, err)
		after := put(t, cold, there, "v")
		require.Equal(t, now+1, after, "a revision has passed: %s", name)
		_, err = cold.Do(t.Context(), clientv3.OpDelete("nothing there"))
		require.NoError(t, err)
		now = after
		require.NoError(t, cold.Close())
	}
}
