package kubernetes

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

var (
	scheme    = runtime.NewScheme()
	codecs    = serializer.NewCodecFactory(scheme)
	pods      = schema.GroupResource{Resource: "pods"}
	versioner = storage.APIObjectVersioner{}
	protoPods runtime.Codec
)

func init() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	pb := protobuf.NewSerializer(scheme, scheme)
	protoPods = codecs.CodecForVersions(pb, pb, schema.GroupVersions{examplev1.SchemeGroupVersion}, nil)
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// setGate sets a feature gate for the rest of the test.
func setGate(t *testing.T, gate featuregate.Feature, on bool) {
	t.Helper()
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
}

// freshSupport makes the process forget, for the rest of the test, what it found out about its etcds.
func freshSupport(t *testing.T) {
	t.Helper()
	before := feature.DefaultFeatureSupportChecker
	feature.DefaultFeatureSupportChecker = feature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { feature.DefaultFeatureSupportChecker = before })
}

// increaseRV is a write that no watch of pods sees.
func increaseRV(cli *clientv3.Client) storagetesting.IncreaseRVFunc {
	return func(ctx context.Context, t *testing.T) int64 {
		resp, err := cli.Put(ctx, "increaseRV", "ok")
		require.NoError(t, err)
		return resp.Header.Revision
	}
}

// compactEtcd compacts as an apiserver does: under a key that says who may, tried twice if it was not us.
func compactEtcd(ctx context.Context, t *testing.T, cli *clientv3.Client, resourceVersion string) int64 {
	rv, err := versioner.ParseResourceVersion(resourceVersion)
	require.NoError(t, err)
	expected, _, _, err := etcd3.Compact(ctx, cli, 0, int64(rv))
	if err != nil {
		_, _, _, err = etcd3.Compact(ctx, cli, expected, int64(rv))
	}
	require.NoError(t, err)
	return int64(rv)
}

// awaitCompaction waits until the store has noticed the compaction, if it looks for one.
func awaitCompaction(t *testing.T, store storage.Interface, rv int64) {
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		require.Eventually(t, func() bool { return store.CompactRevision() == rv }, patience, tick)
	}
}

// errSynthetic is what broken codecs and transformers answer.
var errSynthetic = errors.New("synthetic error")

// failingTransformer fails to read while it is told to.
type failingTransformer struct {
	value.Transformer
	fail atomic.Bool
}

func (f *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if f.fail.Load() {
		return nil, false, errSynthetic
	}
	return f.Transformer.TransformFromStorage(ctx, data, dataCtx)
}

// failingCodec fails to decode while it is told to.
type failingCodec struct {
	runtime.Codec
	fail atomic.Bool
}

func (f *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if f.fail.Load() {
		return nil, nil, errSynthetic
	}
	return f.Codec.Decode(data, defaults, into)
}
