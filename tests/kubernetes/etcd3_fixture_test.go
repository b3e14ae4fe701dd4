package kubernetes

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apimachinery/pkg/api/apitesting"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/utils/clock"
)

const (
	patience = 2 * time.Minute
	tick     = 20 * time.Millisecond

	valuePrefix = "test!"
	// mostPerRequest is etcd3's maxLimit: how far the pages of a filtered list grow.
	mostPerRequest = 10_000
)

// etcdSetup is what a test of package etcd3 varies; the zero value is upstream's default.
type etcdSetup struct {
	server      *embed.Config
	codec       runtime.Codec
	transformer value.Transformer
}

// etcdStore is an etcd3 store and what its tests look at behind its back.
type etcdStore struct {
	storage.Interface
	client      *kubernetes.Client
	codec       runtime.Codec
	transformer *switchedTransformer
}

func newEtcdStore(t testing.TB, s side, setup etcdSetup) (context.Context, *etcdStore) {
	t.Helper()
	if setup.codec == nil {
		setup.codec = apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)
	}
	if setup.transformer == nil {
		setup.transformer = storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)
	}
	st := &etcdStore{client: s.run(t, setup.server), codec: setup.codec, transformer: &switchedTransformer{}}
	st.transformer.set(setup.transformer)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1
	compactor := etcd3.NewCompactor(st.client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	store, err := etcd3.New(st.client, compactor, st.codec, newPod, newPodList, "", "/pods/", pods,
		st.transformer, leases, etcd3.NewDefaultDecoder(st.codec, versioner), versioner)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	st.Interface = store
	return context.Background(), st
}

// kv counts the store's reads.
func (st *etcdStore) kv() *storagetesting.KVRecorder {
	return st.client.KV.(*storagetesting.KVRecorder)
}

// lists records the store's lists.
func (st *etcdStore) lists() *storagetesting.KubernetesRecorder {
	return st.client.Kubernetes.(*storagetesting.KubernetesRecorder)
}

func (st *etcdStore) increaseRV() storagetesting.IncreaseRVFunc { return increaseRV(st.client.Client) }

func (st *etcdStore) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	awaitCompaction(t, st, compactEtcd(ctx, t, st.client.Client, resourceVersion))
}

// stored checks what lies in etcd: an object without what only the server knows.
func (st *etcdStore) stored(ctx context.Context, t *testing.T, key string) {
	resp, err := st.client.KV.Get(ctx, key)
	require.NoError(t, err)
	require.NotEmpty(t, resp.Kvs, key)
	obj, err := runtime.Decode(st.codec, resp.Kvs[0].Value[len(valuePrefix):])
	require.NoError(t, err)
	assert.Empty(t, obj.(*example.Pod).ResourceVersion)
	assert.Empty(t, obj.(*example.Pod).SelfLink) //nolint:staticcheck // deprecated, and so not to be stored
}

// keys are the names of all pods, as the store itself asks for them.
func (st *etcdStore) keys(ctx context.Context) ([]string, error) {
	resp, err := st.client.KV.Get(ctx, "/pods/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}

// calls checks how many objects a list has read, and in how many requests: pages double until they are full.
func (st *etcdStore) calls(t *testing.T, pageSize, objects uint64) {
	reads := st.transformer.get().(*storagetesting.PrefixTransformer).GetReadsAndReset()
	assert.Equal(t, objects, reads, "objects read")
	want := uint64(1)
	for sum, limit := uint64(1), pageSize; pageSize != 0 && sum < objects; want++ {
		limit = min(2*limit, mostPerRequest)
		sum += limit
	}
	require.Equal(t, want, st.kv().GetReadsAndReset()+st.kv().GetStreamReadsAndReset(), "requests")
}

// UpdatePrefixTransformer satisfies storagetesting.InterfaceWithPrefixTransformer.
func (st *etcdStore) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	before := st.transformer.get()
	changed := *before.(*storagetesting.PrefixTransformer)
	st.transformer.set(modify(&changed))
	return func() { st.transformer.set(before) }
}

// UpdateTransformer satisfies storagetesting.InterfaceWithTransformerOverride.
func (st *etcdStore) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	before := st.transformer.get()
	st.transformer.set(modify(before))
	return func() { st.transformer.set(before) }
}

// switchedTransformer is a transformer that can be replaced under a running store.
type switchedTransformer struct {
	current atomic.Pointer[value.Transformer]
}

func (s *switchedTransformer) get() value.Transformer  { return *s.current.Load() }
func (s *switchedTransformer) set(t value.Transformer) { s.current.Store(&t) }

func (s *switchedTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	return s.get().TransformFromStorage(ctx, data, dataCtx)
}

func (s *switchedTransformer) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return s.get().TransformToStorage(ctx, data, dataCtx)
}

// corruptObject is etcd3's own error for data that cannot be read.
func corruptObject(t *testing.T) error {
	broken := &failingTransformer{}
	broken.fail.Store(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(broken).TransformFromStorage(context.Background(), nil, value.DefaultContext(nil))
	require.Error(t, err)
	require.True(t, errors.Is(err, errSynthetic))
	return err
}
