package kubernetes

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// TestConsistentReadsComeFromTheCache: an apiserver asks each endpoint of its client for its version, and only if that
// pleases it are consistent lists served from the watch cache, with RequestProgress telling how far the cache is. With a client
// that cannot answer this is off in silence, and every list goes to etcd.
func TestConsistentReadsComeFromTheCache(t *testing.T) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			freshSupport(t)
			requests, c := newCountedCache(t, s)
			require.Eventually(t, func() bool {
				return feature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
			}, patience, tick, "the check of the endpoints' versions found that RequestProgress does not work")

			for range 5 {
				asked := requests.Load()
				rev := c.increaseRV()(t.Context(), t)
				listed, lists := c.consistentList(t)
				require.GreaterOrEqual(t, listed, rev, "not consistent")
				require.Zero(t, lists, "the list went to etcd")
				require.Greater(t, requests.Load(), asked, "nobody asked how far the cache is")
			}
		})
	}
}

// TestConsistentReadsWithoutProgress is the control: where the feature is off, the same list is seen to go to etcd.
func TestConsistentReadsWithoutProgress(t *testing.T) {
	before := feature.DefaultFeatureSupportChecker
	feature.DefaultFeatureSupportChecker = unsupported{before}
	t.Cleanup(func() { feature.DefaultFeatureSupportChecker = before })
	_, c := newCountedCache(t, sides[0])
	c.increaseRV()(t.Context(), t)
	_, lists := c.consistentList(t)
	require.Equal(t, 1, lists)
}

type unsupported struct{ feature.FeatureSupportChecker }

func (unsupported) Supports(storage.Feature) bool { return false }

// consistentList lists the latest state, and says at which revision and with how many lists of etcd.
func (c *cached) consistentList(t *testing.T) (rev int64, lists int) {
	t.Helper()
	const recorded = "consistent"
	before := len(c.lists().ListRequestForKey(recorded))
	var out example.PodList
	ctx := context.WithValue(t.Context(), storagetesting.RecorderContextKey, recorded)
	require.NoError(t, c.GetList(ctx, "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &out))
	rev, err := strconv.ParseInt(out.ResourceVersion, 10, 64)
	require.NoError(t, err)
	return rev, len(c.lists().ListRequestForKey(recorded)) - before
}

// newCountedCache is a watch cache whose progress requests are counted.
func newCountedCache(t *testing.T, s side) (*atomic.Int64, *cached) {
	t.Helper()
	requests := &atomic.Int64{}
	counted := side{s.name, func(t testing.TB, cfg *embed.Config) *kubernetes.Client {
		cli := s.run(t, cfg)
		cli.Watcher = countedWatcher{cli.Watcher, requests}
		return cli
	}}
	_, c := newCached(t, counted, cacherSetup{})
	return requests, c
}

type countedWatcher struct {
	clientv3.Watcher
	requests *atomic.Int64
}

func (w countedWatcher) RequestProgress(ctx context.Context) error {
	w.requests.Add(1)
	return w.Watcher.RequestProgress(ctx)
}
