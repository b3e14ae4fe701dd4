package client

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
)

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
