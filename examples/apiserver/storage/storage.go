// Package storage puts a meta cluster under an API server that is built from k8s.io/apiserver, without a fork of it: it
// wraps the server's RESTOptionsGetters, which say for each resource how its storage is made.
//
//	backend, err := storage.New(storage.Meta(meta, clientv3.Config{Endpoints: endpoints, TLS: tls}), 5*time.Minute)
//	defer backend.Close()
//	config.RESTOptionsGetter = backend.RESTOptions(config.RESTOptionsGetter)
package storage

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/metaetcd/metaetcd"
)

// Dial returns a new client of the store, which the caller closes.
type Dial func() (*kubernetes.Client, error)

// Meta dials clients whose KV, Watcher and Lease are the meta cluster's. The configuration is that of a real etcd, any member
// of it: its endpoints are what an apiserver asks for etcd's version before it trusts its watch cache with consistent reads.
func Meta(meta *metaetcd.Client, real clientv3.Config) Dial {
	return func() (*kubernetes.Client, error) {
		cli, err := kubernetes.New(real)
		if err == nil {
			meta.Install(cli.Client)
		}
		return cli, err
	}
}

// Backend makes the storage of an API server's resources. It is safe for concurrent use.
type Backend struct {
	dial      Dial
	client    *kubernetes.Client // the compactor's
	compactor interface {
		etcd3.Compactor
		Stop()
	}
}

// New returns a backend that compacts at the given interval, as kube-apiserver does for its etcd every five minutes. Several
// processes may: they agree on whose turn it is. 0 means never.
func New(dial Dial, compaction time.Duration) (*Backend, error) {
	cli, err := dial()
	if err != nil {
		return nil, err
	}
	return &Backend{dial: dial, client: cli, compactor: etcd3.NewCompactor(cli.Client, compaction, clock.RealClock{}, nil)}, nil
}

// Close stops compaction. Close it after the server: each resource's storage ends with the server.
func (b *Backend) Close() error {
	b.compactor.Stop()
	return b.client.Close()
}

// RESTOptions returns a getter whose resources are stored here; everything else is as the given getter says, encryption at
// rest included. All resources have a watch cache.
func (b *Backend) RESTOptions(next generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return restOptions{next, b}
}

type restOptions struct {
	generic.RESTOptionsGetter
	backend *Backend
}

func (r restOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := r.RESTOptionsGetter.GetRESTOptions(resource, example)
	opts.Decorator = r.backend.cached
	return opts, err
}

// cached is a generic.StorageDecorator: a watch cache over the store, as StorageWithCacher makes it over etcd.
func (b *Backend) cached(
	config *storagebackend.ConfigForResource,
	resourcePrefix string,
	keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object,
	attributes storage.AttrFunc,
	triggers storage.IndexerFuncs,
	indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	raw, closeRaw, err := b.raw(config, newFunc, newListFunc, resourcePrefix)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             raw,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             keyFunc,
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        attributes,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               config.Codec,
	})
	if err != nil {
		closeRaw()
		return nil, nil, err
	}
	delegator := cacher.NewCacheDelegator(c, raw)
	// Resources and their subresources share a storage, and each destroys it.
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		c.Stop()
		closeRaw()
	}), nil
}

// raw is the store itself, as the factory of k8s.io/apiserver makes it.
func (b *Backend) raw(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
	cli, err := b.dial()
	if err != nil {
		return nil, nil, err
	}
	cli.KV = etcd3.NewETCDLatencyTracker(cli.KV)
	transformer := config.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	decoder := etcd3.NewDefaultDecoder(config.Codec, versioner)
	unsafeDeletion := utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
	if unsafeDeletion {
		transformer = etcd3.WithCorruptObjErrorHandlingTransformer(transformer)
		decoder = etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	store, err := etcd3.New(cli, b.compactor, config.Codec, newFunc, newListFunc, config.Prefix, resourcePrefix,
		config.GroupResource, transformer, config.LeaseManagerConfig, decoder, versioner)
	if err != nil {
		return nil, nil, errors.Join(err, cli.Close())
	}
	destroy := func() {
		store.Close()
		_ = cli.Close()
	}
	if unsafeDeletion {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(store, config.GroupResource), destroy, nil
	}
	return store, destroy, nil
}

// Sizes makes the server report the size of each given etcd's database, as apiserver_storage_size_bytes.
func Sizes(clients ...*clientv3.Client) {
	var monitors []metrics.Monitor
	for _, cli := range clients {
		monitors = append(monitors, monitor{cli})
	}
	metrics.SetStorageMonitorGetter(func() ([]metrics.Monitor, error) { return monitors, nil })
}

// monitor borrows its client.
type monitor struct{ cli *clientv3.Client }

func (m monitor) Monitor(ctx context.Context) (metrics.StorageMetrics, error) {
	status, err := m.cli.Status(ctx, m.cli.Endpoints()[0])
	if err != nil {
		return metrics.StorageMetrics{}, err
	}
	return metrics.StorageMetrics{Size: status.DbSize}, nil
}

func (monitor) Close() error { return nil }
