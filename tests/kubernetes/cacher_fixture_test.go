package kubernetes

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// cacherSetup is what a test of package cacher varies; the zero value is upstream's default.
type cacherSetup struct {
	server        *embed.Config
	codec         runtime.Codec
	transformer   value.Transformer
	clusterScoped bool
	indexed       bool // by node name and namespace
}

// cached is a watch cache over an etcd3 store.
type cached struct {
	*cacher.CacheDelegator
	cache  *cacher.Cacher
	client *kubernetes.Client
	open   func() *cached // once more, over the same etcd
}

func newCached(t testing.TB, s side, setup cacherSetup) (context.Context, *cached) {
	t.Helper()
	if setup.codec == nil {
		setup.codec = protoPods
	}
	if setup.transformer == nil {
		setup.transformer = identity.NewEncryptCheckTransformer()
	}
	cli := s.run(t, setup.server)
	compactor := etcd3.NewCompactor(cli.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	store, err := etcd3.New(cli, compactor, setup.codec, newPod, newPodList, "/registry", "/pods/", pods,
		setup.transformer, etcd3.NewDefaultLeaseManagerConfig(), etcd3.NewDefaultDecoder(setup.codec, versioner), versioner)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	var open func() *cached
	open = func() *cached {
		etcd3.TestOnlyResetResourceSizeEstimator(store) // every cache brings its own
		return openCache(t, setup, cli, store, open)
	}
	return context.Background(), open()
}

// openCache starts a watch cache whose first list fails, as upstream's do, and waits until it is ready.
func openCache(t testing.TB, setup cacherSetup, cli *kubernetes.Client, store storage.Interface, open func() *cached) *cached {
	t.Helper()
	failing := &storagetesting.StorageInjectingListErrors{Interface: store, Errors: 1}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.WatchListClient) {
		failing.Errors = 0 // it watches where it listed
	}
	config := cacher.Config{
		Storage:             failing,
		Versioner:           versioner,
		GroupResource:       pods,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      "/pods/",
		KeyFunc:             setup.key,
		GetAttrsFunc:        podAttributes,
		NewFunc:             newPod,
		NewListFunc:         newPodList,
		Codec:               setup.codec,
		Clock:               hurriedClock{},
	}
	if setup.indexed {
		config.IndexerFuncs, config.Indexers = podIndexes()
	}
	c, err := cacher.NewCacherFromConfig(config)
	require.NoError(t, err)
	t.Cleanup(c.Stop)
	require.Eventually(t, func() bool {
		consumed, err := failing.ErrorsConsumed()
		return consumed && err == nil
	}, patience, tick)
	require.NoError(t, c.Wait(context.Background()))
	d := cacher.NewCacheDelegator(c, failing)
	t.Cleanup(d.Stop)
	return &cached{CacheDelegator: d, cache: c, client: cli, open: open}
}

func (s cacherSetup) key(obj runtime.Object) (string, error) {
	if s.clusterScoped {
		return storage.NoNamespaceKeyFunc("/pods/", obj)
	}
	return storage.NamespaceKeyFunc("/pods/", obj)
}

func podAttributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := obj.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("not a pod: %T", obj)
	}
	return pod.Labels, fields.Set{
		"metadata.name":      pod.Name,
		"metadata.namespace": pod.Namespace,
		"spec.nodeName":      pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy),
		"status.phase":       string(pod.Status.Phase),
	}, nil
}

// podIndexes are those that kube-apiserver keeps for pods.
func podIndexes() (storage.IndexerFuncs, *cache.Indexers) {
	node := func(obj any) string { return obj.(*example.Pod).Spec.NodeName }
	return storage.IndexerFuncs{"spec.nodeName": func(obj runtime.Object) string { return node(obj) }},
		&cache.Indexers{
			"f:spec.nodeName":      func(obj any) ([]string, error) { return []string{node(obj)}, nil },
			"f:metadata.namespace": func(obj any) ([]string, error) { return []string{obj.(*example.Pod).Namespace}, nil },
		}
}

func (c *cached) increaseRV() storagetesting.IncreaseRVFunc { return increaseRV(c.client.Client) }

func (c *cached) lists() *storagetesting.KubernetesRecorder {
	return c.client.Kubernetes.(*storagetesting.KubernetesRecorder)
}

func (c *cached) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	awaitCompaction(t, c, compactEtcd(ctx, t, c.client.Client, resourceVersion))
}

// hurriedClock makes the cache look for compactions at once. It does so every 15 seconds; upstream's tests call it instead,
// which is private.
type hurriedClock struct{ clock.RealClock }

const compactionPoll = 15 * time.Second

func (c hurriedClock) NewTimer(d time.Duration) clock.Timer {
	timer := c.RealClock.NewTimer(hurried(d))
	return hurriedTimer{timer}
}

type hurriedTimer struct{ clock.Timer }

func (t hurriedTimer) Reset(d time.Duration) bool { return t.Timer.Reset(hurried(d)) }

func hurried(d time.Duration) time.Duration {
	if d == compactionPoll {
		return tick
	}
	return d
}

// reopened is a store whose cache is opened anew by a compaction, so that it has no history left from before.
type reopened struct{ *cached }

func (r *reopened) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	compactEtcd(ctx, t, r.client.Client, resourceVersion)
	r.cached = r.open()
}

// awaited is a store that returns from Create when the cache has the object.
type awaited struct{ *cached }

func (a awaited) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := a.cached.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, tick, patience, true, func(ctx context.Context) (bool, error) {
		got := newPod()
		err := a.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, got)
		if storage.IsNotFound(err) {
			return false, nil
		}
		return apiequality.Semantic.DeepEqual(got, out), err
	})
}
