package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fill puts n keys with a prefix and values of the given size, many at once.
func fill(t *testing.T, kv clientv3.KV, prefix string, n, size int) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error {
			_, err := kv.Put(within(t, patience), fmt.Sprintf("%s%04d", prefix, i), strings.Repeat("v", size))
			return err
		})
	}
	require.NoError(t, g.Wait())
}

// TestStreamedChunksAreTheReceivers: a receiver may take a chunk apart while the next one is made, as Kubernetes does, which lets
// go of each pair that it has decoded. The race detector sees who looks at it afterwards.
func TestStreamedChunksAreTheReceivers(t *testing.T) {
	t.Parallel()
	const keys = 300
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	for i := range keys {
		put(t, cli, fmt.Sprintf("k%03d", i), "v")
	}
	for range 20 {
		chunks, err := cli.GetStream(within(t, patience), "k", clientv3.WithPrefix())
		require.NoError(t, err)
		var got, parts int
		for chunk := range chunks {
			require.NoError(t, chunk.Err())
			parts++
			for i, kv := range chunk.Kvs {
				require.Equal(t, fmt.Sprintf("k%03d", got), string(kv.Key))
				chunk.Kvs[i] = nil
				got++
			}
		}
		require.Equal(t, keys, got)
		require.Greater(t, parts, 2)
	}
}

// TestStreamThatCompactionOvertakes: it ends with etcd's error, also when the members still have what it would go on with.
func TestStreamThatCompactionOvertakes(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	fill(t, cli, "k", 1000, 10<<10)
	ctx, cancel := context.WithCancel(within(t, patience))
	defer cancel()
	chunks, err := cli.GetStream(ctx, "k", clientv3.WithPrefix())
	require.NoError(t, err)
	first := <-chunks
	require.NoError(t, first.Err())
	require.Len(t, first.Kvs, 10, "as in etcd")
	_, err = cli.Compact(within(t, patience), put(t, cli, "z", "v"), clientv3.WithCompactPhysical())
	require.NoError(t, err)
	for chunk := range chunks {
		if err = chunk.Err(); err != nil {
			break
		}
	}
	require.Equal(t, rpctypes.ErrCompacted, err)
}

// TestSortedStream: a stream that is sorted by something else than the key is what a get answers, in chunks.
func TestSortedStream(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	for i := range 25 {
		put(t, cli, fmt.Sprintf("k%02d", i*7%25), fmt.Sprintf("%02d", i*11%25))
	}
	for _, target := range []clientv3.SortTarget{clientv3.SortByVersion, clientv3.SortByCreateRevision, clientv3.SortByModRevision, clientv3.SortByValue} {
		for _, limit := range []int64{0, 3, 12, 25, 100} {
			opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(target, clientv3.SortNone), clientv3.WithLimit(limit)}
			want, err := cli.Get(within(t, patience), "k", opts...)
			require.NoError(t, err)
			chunks, err := cli.GetStream(within(t, patience), "k", opts...)
			require.NoError(t, err)
			var kvs []*mvccpb.KeyValue
			var last clientv3.RangeStreamResponse
			parts := 0
			for last = range chunks {
				require.NoError(t, last.Err())
				kvs, parts = append(kvs, last.Kvs...), parts+1
			}
			require.Equal(t, kinds(want.Kvs), kinds(kvs), "by %v, at most %d", target, limit)
			require.Equal(t, want.Count, last.Count)
			require.Equal(t, want.More, last.More)
			require.Equal(t, want.Header.Revision, last.Header.Revision)
			require.Equal(t, len(kvs) > 10, parts > 1)
		}
	}
}

// kinds shows pairs with their revisions.
func kinds(kvs []*mvccpb.KeyValue) []string {
	var all []string
	for kv := range slices.Values(kvs) {
		all = append(all, fmt.Sprintf("%s=%s create %d mod %d version %d lease %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease))
	}
	return all
}
