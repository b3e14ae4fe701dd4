package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// Borrowed clients rest for long between attempts to connect; by default for up to two minutes, here for an hour. Whoever waits
// for a cluster goes on when it is back, and so does New.
func TestClientsThatRestForLong(t *testing.T) {
	rest := backoff.Config{BaseDelay: time.Hour, MaxDelay: time.Hour, Multiplier: 1}
	cluster := newCluster(t, 2, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.DialOptions = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: rest, MinConnectTimeout: 20 * time.Second})}
	}))
	cli := cluster.Client(t)
	for i, n := range cluster.Nodes() {
		put(t, cli, "k", "before")
		n.Refuse()
		done := make(chan error, 3)
		go func() {
			_, err := cli.Put(within(t, patience), keyOn(t, cluster, max(i-1, 0), "k"), "v")
			done <- err
		}()
		go func() {
			_, err := cli.Grant(within(t, patience), 60)
			done <- err
		}()
		cfg := cluster.Config()
		go func() {
			another, err := metaetcd.New(within(t, patience), cfg)
			if err == nil {
				err = another.Close()
			}
			done <- err
		}()
		require.Eventually(t, func() bool { return cli.Health(within(t, soon)) != nil }, patience, tick)
		n.Heal()
		for range 3 {
			require.NoError(t, <-done)
		}
	}
}
