package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/utils/clock"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	namespaces = 50
	nodes      = 500
	fillers    = 64 // workers that create the pods
	// paddingBytes make upstream's exemplar as large as pods are, 2 KiB.
	paddingBytes = 1390
)

// side is one of the two things compared, with the pods in it.
type side struct {
	data    storagetesting.BenchmarkData
	codec   runtime.Codec
	store   storage.Interface
	closers []func() error
}

// open starts servers, opens a store on them and fills it.
func open(ctx context.Context, o *options, start func(rig.Layout) (*rig.Cluster, error)) (_ *side, err error) {
	s := &side{codec: newCodec(), data: storagetesting.PrepareBenchmarkData(namespaces, o.pods/namespaces, nodes)}
	for _, pod := range s.data.Pods {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, "padding", strings.Repeat("x", paddingBytes))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	cluster, err := start(o.Layout)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, cluster.Stop)
	opened, err := cluster.Open(ctx)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, opened.Close)
	cli, err := kubernetes.New(clientv3.Config{Endpoints: []string{cluster.Members[0].Endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, cli.Close)
	if opened.Meta != nil {
		opened.Meta.Install(cli.Client)
	}
	if err := s.openStore(cli); err != nil {
		return nil, err
	}
	return s, load.Each(ctx, fillers, len(s.data.Pods), func(ctx context.Context, i int) error {
		return s.store.Create(ctx, s.data.PodKeys[i], s.data.Pods[i], &example.Pod{}, 0)
	})
}

func (s *side) openStore(cli *kubernetes.Client) error {
	versioner := storage.APIObjectVersioner{}
	compactor := etcd3.NewCompactor(cli.Client, 0, clock.RealClock{}, nil)
	s.closers = append(s.closers, func() error { compactor.Stop(); return nil })
	store, err := etcd3.New(cli, compactor, s.codec, newPod, newPodList, "/registry", "/pods/", pods, identity.NewEncryptCheckTransformer(),
		etcd3.NewDefaultLeaseManagerConfig(), etcd3.NewDefaultDecoder(s.codec, versioner), versioner)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { store.Close(); return nil })
	s.store = store
	return nil
}

// openCache puts a watch cache over the store.
func (s *side) openCache(ctx context.Context) (storage.Interface, func(), error) {
	etcd3.TestOnlyResetResourceSizeEstimator(s.store) // every cache brings its own
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             s.store,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       pods,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      "/pods/",
		KeyFunc:             func(obj runtime.Object) (string, error) { return storage.NamespaceKeyFunc("/pods/", obj) },
		GetAttrsFunc:        attributes,
		NewFunc:             newPod,
		NewListFunc:         newPodList,
		Codec:               s.codec,
	})
	if err != nil {
		return nil, nil, err
	}
	delegator := cacher.NewCacheDelegator(c, s.store)
	stop := func() {
		delegator.Stop()
		c.Stop()
	}
	if err := c.Wait(ctx); err != nil {
		stop()
		return nil, nil, err
	}
	return delegator, stop, nil
}

// podBytes is the size of a stored pod.
func (s *side) podBytes() int {
	encoded, err := runtime.Encode(s.codec, s.data.Pods[0])
	utilruntime.Must(err)
	return len(encoded)
}

func (s *side) close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

var pods = schema.GroupResource{Resource: "pods"}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// newCodec stores pods as kube-apiserver does, in protobuf.
func newCodec() runtime.Codec {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	codecs, pb := serializer.NewCodecFactory(scheme), protobuf.NewSerializer(scheme, scheme)
	return codecs.CodecForVersions(pb, pb, schema.GroupVersions{examplev1.SchemeGroupVersion}, nil)
}

func attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := obj.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("not a pod: %T", obj)
	}
	return pod.Labels, fields.Set{"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName}, nil
}
