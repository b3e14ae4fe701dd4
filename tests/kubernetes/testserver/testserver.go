// Package testserver is k8s.io/apiserver/pkg/storage/etcd3/testserver with a meta cluster in place of the etcd: the same
// functions, so that whatever is tested on that package's clients can be tested on these.
package testserver

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientv3 "go.etcd.io/etcd/client/v3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

const (
	members     = 3
	openTimeout = 30 * time.Second
)

// NewTestConfig returns a configuration for RunEtcd and RunPlain, which take ticks, elections, the progress interval and the
// quota from it. Its servers start quickly: with one server to a cluster, a short election is safe. It also shortens the least
// TTL of leases, which is one and a half of it, to one second.
func NewTestConfig(testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	cfg.TickMs, cfg.ElectionMs = 10, 100
	return cfg
}

// RunEtcd starts a meta cluster of three members and returns a client that it is installed on, with the recorders that
// Kubernetes' tests expect. Everything ends with the test. A nil configuration is the default one.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	cluster := metaetcdtest.New(t, members, options(t, cfg)...)
	config := cluster.Config()
	if cfg != nil {
		config.ProgressInterval = cfg.WatchProgressNotifyInterval
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	meta, err := metaetcd.New(ctx, config)
	if err != nil {
		t.Fatalf("open the meta cluster: %v", err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	cli := dial(t, cluster.Members[0])
	meta.Install(cli.Client)
	return record(cli)
}

// RunPlain is RunEtcd with one plain etcd.
func RunPlain(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	return record(dial(t, metaetcdtest.Plain(t, options(t, cfg)...)))
}

func options(t testing.TB, cfg *embed.Config) []metaetcdtest.Option {
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	adjust := func(server *embed.Config) {
		server.TickMs, server.ElectionMs = cfg.TickMs, cfg.ElectionMs
		server.WatchProgressNotifyInterval = cfg.WatchProgressNotifyInterval
		server.QuotaBackendBytes = cfg.QuotaBackendBytes
	}
	return []metaetcdtest.Option{metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithEtcdConfig(adjust)}
}

func dial(t testing.TB, node *metaetcdtest.Node) *kubernetes.Client {
	t.Helper()
	cli, err := kubernetes.New(clientv3.Config{
		Endpoints:   node.Endpoints(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatalf("client of %s: %v", node.Name(), err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// record wraps the client's requests as upstream's RunEtcd does.
func record(cli *kubernetes.Client) *kubernetes.Client {
	recorder := storagetesting.NewKubernetesRecorder(cli.Kubernetes)
	cli.KV = storagetesting.NewKVRecorder(cli.KV, recorder)
	cli.Kubernetes = recorder
	return cli
}
