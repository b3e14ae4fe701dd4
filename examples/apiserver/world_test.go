package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/examples/apiserver/storage"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// world is what a server stores its objects in.
type world struct {
	// open opens it as a new process would.
	open func(t *testing.T) (dial storage.Dial, health func(context.Context) error, closeStore func() error)
	// check looks at the server from outside.
	check func(t *testing.T, s *runningServer)
}

func plainWorld(t *testing.T) world {
	etcd := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync())
	cfg := clientv3.Config{Endpoints: etcd.Endpoints()}
	return world{
		open: func(t *testing.T) (storage.Dial, func(context.Context) error, func() error) {
			probe := etcd.Client(t)
			health := func(ctx context.Context) error {
				_, err := probe.Get(ctx, "health")
				return err
			}
			return func() (*kubernetes.Client, error) { return kubernetes.New(cfg) }, health, func() error { return nil }
		},
		check: func(*testing.T, *runningServer) {},
	}
}

func metaWorld(t *testing.T) world {
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	real := clientv3.Config{Endpoints: cluster.Members[0].Endpoints()}
	return world{
		open: func(t *testing.T) (storage.Dial, func(context.Context) error, func() error) {
			config := cluster.Config()
			config.Metrics = legacyregistry.Registerer()
			meta, err := metaetcd.New(t.Context(), config)
			require.NoError(t, err)
			return storage.Meta(meta, real), meta.Health, meta.Close
		},
		check: func(t *testing.T, s *runningServer) {
			var members []*clientv3.Client
			for _, m := range cluster.Members {
				members = append(members, m.Client(t))
			}
			storage.Sizes(members...)
			metrics, err := read(s.config, "/metrics")
			require.NoError(t, err)
			require.Contains(t, string(metrics), "metaetcd_")
			for _, id := range []string{"etcd-0", "etcd-1", "etcd-2"} {
				require.Contains(t, string(metrics), `apiserver_storage_size_bytes{storage_cluster_id="`+id+`"}`)
			}
			require.NoError(t, s.get("/healthz/metaetcd"))
			cluster.Members[2].Refuse()
			require.Error(t, s.get("/healthz/metaetcd"), "a member is away")
			cluster.Members[2].Heal()
			require.Eventually(t, func() bool { return s.get("/healthz/metaetcd") == nil }, patience, pause)
		},
	}
}
