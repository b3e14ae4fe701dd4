package lease

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
)

// Entries are read and dropped by requests that keep within max-txn-ops, and whatever that is, by some.
func TestEntriesFitTheBudget(t *testing.T) {
	const id = 7
	for _, ops := range []int{-1, 0, 1, 2, 3, 20, 128} {
		kv := etcdfake.New(1).Client(nil)
		l := New(Config{MaxTxnOps: ops, Members: []Member{{Name: "m", Txn: func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			require.LessOrEqual(t, max(len(req.Compare), len(req.Success)), max(ops, 2))
			requireFollowed(t, req.Success)
			return kv.Txn(ctx, req)
		}}}})
		dead := record.LeaseRecord{Grant: 1, Dead: true}
		put := func(key, value []byte) {
			_, err := kv.Put(t.Context(), &pb.PutRequest{Key: key, Value: value})
			require.NoError(t, err)
		}
		put(record.LeaseKey(id), dead.Encode())
		var entries []Entry
		for i := range byte(200) {
			entries = append(entries, Entry{Lease: id, Key: []byte{'k', i}})
			put(record.AttachedKey(id, entries[i].Key), nil)
		}
		keys, stale, err := l.attached(t.Context(), 0, id, &dead)
		require.NoError(t, err)
		require.Empty(t, keys)
		require.Len(t, stale, len(entries))
		require.NoError(t, l.drop(t.Context(), 0, id, dead, stale[:100]))
		require.NoError(t, l.Drop(t.Context(), 0, entries[100:]))
		_, stale, err = l.attached(t.Context(), 0, id, &dead)
		require.NoError(t, err)
		require.Empty(t, stale)
		l.Close()
	}
}
