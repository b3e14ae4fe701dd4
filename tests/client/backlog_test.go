package client

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// A process that was cut off comes back, however much was written meanwhile, and however little its clients take in one message.
func TestBacklogAboveTheClientsLimit(t *testing.T) {
	cluster := newCluster(t, 1, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) { cfg.MaxCallRecvMsgSize = 2 << 20 }))
	writer, cut := open(t, cluster.DirectConfig()), cluster.Client(t)
	at := put(t, cut, "k", "0")
	cluster.Members[0].Refuse()
	const writes = 400
	value := strings.Repeat("v", 10<<10)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range writes / 8 {
				_, err := writer.Put(within(t, patience), "k"+string(rune('a'+i)), value)
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	cluster.Members[0].Heal()
	got, err := cut.Get(within(t, patience), "k", clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, 9, got.Count)
	// The same by its past, for a watch that begins there.
	seen := 0
	for resp := range cut.Watch(within(t, patience), "k", clientv3.WithPrefix(), clientv3.WithRev(at+1), clientv3.WithPrevKV()) {
		require.NoError(t, resp.Err())
		if seen += len(resp.Events); seen == writes {
			break
		}
	}
	require.Equal(t, writes, seen)
}
