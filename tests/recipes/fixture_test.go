// Package recipes shows that what etcd's client offers on top of its interfaces works over a meta cluster as it is: with clients of
// an ordinary server on which the meta cluster is installed, several processes at once.
package recipes

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

func TestMain(m *testing.M) {
	rig.RunRole(map[string]rig.Role{holderRole: hold})
	goleak.VerifyTestMain(m)
}

const (
	// patience bounds waits that must succeed. Only a failure takes that long.
	patience = 2 * time.Minute
	// ttl is that of sessions whose holders die, in seconds: long enough for a busy machine to keep the others alive.
	ttl = 5
)

// together keeps what has the same first path segment on one member.
var together = metaetcd.Sharding{Segments: 1}

// process stands for one process of a meta cluster: it has an ordinary client, and shares nothing with others but the servers.
type process struct {
	*clientv3.Client
	meta *metaetcd.Client
}

// start starts a meta cluster of three members, and what stands for some processes.
func start(t *testing.T, n int, sharding metaetcd.Sharding) []*process {
	t.Helper()
	return startOn(t, newCluster(t, sharding), n)
}

func newCluster(t *testing.T, sharding metaetcd.Sharding) *metaetcdtest.Cluster {
	t.Helper()
	return metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(sharding))
}

func startOn(t *testing.T, cluster *metaetcdtest.Cluster, n int) []*process {
	t.Helper()
	var ps []*process
	for range n {
		cli, err := clientv3.New(clientv3.Config{
			Endpoints: cluster.Members[0].Endpoints(), Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		})
		require.NoError(t, err)
		p := &process{Client: cli, meta: cluster.Client(t)}
		p.meta.Install(cli)
		t.Cleanup(func() { _ = cli.Close() })
		ps = append(ps, p)
	}
	return ps
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return c
}

// session opens a session that is left to run out when the test ends.
func session(t *testing.T, p *process) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(p.Client, concurrency.WithTTL(ttl))
	require.NoError(t, err)
	t.Cleanup(s.Orphan)
	return s
}

// within fails the test unless f returns soon.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		require.NoError(t, err, what)
	case <-time.After(patience):
		require.FailNow(t, "it takes too long", what)
	}
}
