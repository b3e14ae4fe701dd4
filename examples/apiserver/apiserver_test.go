package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/metaetcd/metaetcd/examples/apiserver/storage"
)

const (
	objects    = 2000
	writers    = 8
	namespaces = 4
	pageSize   = 300
	patience   = 5 * time.Minute
	pause      = 50 * time.Millisecond
)

var widgets = schema.GroupVersionResource{Group: "example.metaetcd.dev", Version: "v1", Resource: "widgets"}

// TestServer: what clients see of an API server, on a plain etcd and on a meta cluster.
func TestServer(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) world{"plain": plainWorld, "meta": metaWorld} {
		t.Run(name, func(t *testing.T) { testServer(t, start(t)) })
	}
}

func testServer(t *testing.T, w world) {
	s := startServer(t, w)
	define(t, s.config)
	cli, err := dynamic.NewForConfig(s.config)
	require.NoError(t, err)
	seen := watchWidgets(t, cli)

	t.Log("create, from many clients, with a restart in the middle")
	var created atomic.Int64
	half := make(chan struct{})
	var writing errgroup.Group
	for i := range writers {
		writing.Go(func() error {
			own, err := dynamic.NewForConfig(s.config)
			if err != nil {
				return err
			}
			for n := i; n < objects; n += writers {
				if err := create(t.Context(), own, widget(n)); err != nil {
					return fmt.Errorf("widget %d: %w", n, err)
				}
				if created.Add(1) == objects/2 {
					close(half)
				}
			}
			return nil
		})
	}
	select {
	case <-half:
	case <-time.After(patience):
		t.Fatalf("only %d objects were created", created.Load())
	}
	s.restart()
	require.NoError(t, writing.Wait())

	t.Log("list in pages")
	all := listAll(t, cli)
	require.Len(t, all, objects)
	require.Eventually(t, func() bool { return maps.Equal(all, seen()) }, patience, pause, "the watch saw what the list shows")

	updateConflicts(t, s.config)
	deleteCollection(t, cli, seen)

	t.Log("the server tells of itself")
	require.NoError(t, s.get("/readyz"))
	w.check(t, s)
}

// create creates an object for sure: while the server restarts it tries again, and then its first attempt may have succeeded.
func create(ctx context.Context, cli dynamic.Interface, obj *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for retried := false; ; retried = true {
		_, err := cli.Resource(widgets).Namespace(obj.GetNamespace()).Create(ctx, obj, metav1.CreateOptions{})
		if err == nil || retried && apierrors.IsAlreadyExists(err) {
			return nil
		}
		if apierrors.IsInvalid(err) || apierrors.IsAlreadyExists(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

func widget(n int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": widgets.GroupVersion().String(),
		"kind":       "Widget",
		"metadata":   map[string]any{"namespace": fmt.Sprintf("ns-%d", n%namespaces), "name": fmt.Sprintf("widget-%05d", n)},
		"spec":       map[string]any{"count": int64(0)},
	}}
}

// define creates the definition of widgets and waits until the server serves them.
func define(t *testing.T, config *rest.Config) {
	t.Helper()
	cli, err := clientset.NewForConfig(config)
	require.NoError(t, err)
	crds := cli.ApiextensionsV1().CustomResourceDefinitions()
	preserve := true
	_, err = crds.Create(t.Context(), &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: widgets.GroupResource().String()},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: widgets.Group,
			Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: widgets.Resource, Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: widgets.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{
					OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve},
				},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		crd, err := crds.Get(t.Context(), widgets.GroupResource().String(), metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				_, err := disco.ServerResourcesForGroupVersion(widgets.GroupVersion().String())
				return err == nil
			}
		}
		return false
	}, patience, pause)
	groups, err := disco.ServerGroups()
	require.NoError(t, err)
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.Name)
	}
	require.Contains(t, names, apiextensionsv1.GroupName, "kubectl finds its way")
}

// watchWidgets keeps an informer, which is a list and a watch, and returns what it knows: resource versions by name.
func watchWidgets(t *testing.T, cli dynamic.Interface) (seen func() map[string]string) {
	t.Helper()
	factory := dynamicinformer.NewDynamicSharedInformerFactory(cli, 0)
	informer := factory.ForResource(widgets).Informer()
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
	})
	require.Eventually(t, informer.HasSynced, patience, pause)
	return func() map[string]string {
		known := map[string]string{}
		for _, obj := range informer.GetStore().List() {
			add(known, obj.(*unstructured.Unstructured))
		}
		return known
	}
}

func add(known map[string]string, u *unstructured.Unstructured) {
	known[u.GetNamespace()+"/"+u.GetName()] = u.GetResourceVersion()
}

// listAll lists widgets page by page: all pages are of one resource version, and no object comes twice.
func listAll(t *testing.T, cli dynamic.Interface) map[string]string {
	t.Helper()
	all, pages, version := map[string]string{}, 0, ""
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := cli.Resource(widgets).List(t.Context(), opts)
		require.NoError(t, err)
		pages++
		if version == "" {
			version = page.GetResourceVersion()
		}
		require.Equal(t, version, page.GetResourceVersion())
		before := len(all)
		for i := range page.Items {
			add(all, &page.Items[i])
		}
		require.Len(t, all, before+len(page.Items))
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			require.Equal(t, (len(all)+pageSize-1)/pageSize, pages)
			return all
		}
	}
}

// updateConflicts: of two updates of one state, one fails; and many clients that try again count without losing any.
func updateConflicts(t *testing.T, config *rest.Config) {
	t.Log("update conflicts")
	const each = 15
	target := widget(1)
	resource := func() (dynamic.ResourceInterface, error) {
		cli, err := dynamic.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		return cli.Resource(widgets).Namespace(target.GetNamespace()), nil
	}
	r, err := resource()
	require.NoError(t, err)
	first, err := r.Get(t.Context(), target.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	second := first.DeepCopy()
	first.SetLabels(map[string]string{"won": "yes"})
	_, err = r.Update(t.Context(), first, metav1.UpdateOptions{})
	require.NoError(t, err)
	second.SetLabels(map[string]string{"won": "no"})
	_, err = r.Update(t.Context(), second, metav1.UpdateOptions{})
	require.True(t, apierrors.IsConflict(err), "%v", err)

	var counting errgroup.Group
	for range writers {
		counting.Go(func() error {
			r, err := resource()
			if err != nil {
				return err
			}
			for range each {
				if err := increment(t.Context(), r, target.GetName()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, counting.Wait())
	got, err := r.Get(t.Context(), target.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	count, _, err := unstructured.NestedInt64(got.Object, "spec", "count")
	require.NoError(t, err)
	require.EqualValues(t, writers*each, count)
	require.Equal(t, "yes", got.GetLabels()["won"])
}

func increment(ctx context.Context, r dynamic.ResourceInterface, name string) error {
	patient := retry.DefaultRetry
	patient.Steps = 1000
	return retry.RetryOnConflict(patient, func() error {
		obj, err := r.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		count, _, err := unstructured.NestedInt64(obj.Object, "spec", "count")
		if err != nil {
			return err
		}
		if err := unstructured.SetNestedField(obj.Object, count+1, "spec", "count"); err != nil {
			return err
		}
		_, err = r.Update(ctx, obj, metav1.UpdateOptions{})
		return err
	})
}

// deleteCollection empties a namespace and leaves the others alone.
func deleteCollection(t *testing.T, cli dynamic.Interface, seen func() map[string]string) {
	t.Log("delete a collection")
	before := listAll(t, cli)
	r := cli.Resource(widgets).Namespace("ns-0")
	require.NoError(t, r.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	left, err := r.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, left.Items)
	after := listAll(t, cli)
	require.Len(t, after, objects-objects/namespaces)
	for name, version := range after {
		require.Equal(t, before[name], version)
	}
	require.Eventually(t, func() bool { return maps.Equal(after, seen()) }, patience, pause)
}

// runningServer is a running server that can be restarted at its address.
type runningServer struct {
	t       *testing.T
	world   world
	creds   *credentials
	address string
	config  *rest.Config
	stop    func()
}

func startServer(t *testing.T, w world) *runningServer {
	t.Helper()
	creds, err := newCredentials()
	require.NoError(t, err)
	s := &runningServer{t: t, world: w, creds: creds, address: "127.0.0.1:0"}
	s.start()
	s.config = creds.client(s.address)
	s.config.QPS = -1 // no limit
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *runningServer) start() {
	s.t.Helper()
	cfg := serverConfig{creds: s.creds}
	dial, health, closeStore := s.world.open(s.t)
	var err error
	cfg.health = health
	cfg.backend, err = storage.New(dial, compaction)
	require.NoError(s.t, err)
	cfg.listener, err = loopback(s.t.Context(), s.address)
	require.NoError(s.t, err)
	s.address = cfg.listener.Addr().(*net.TCPAddr).String()
	server, err := newServer(cfg)
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.PrepareRun().RunWithContext(ctx); err != nil {
			s.t.Errorf("the server ended: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(cfg.backend.Close(), closeStore()); err != nil {
			s.t.Errorf("close the store: %v", err)
		}
	})
	client := s.creds.client(s.address)
	require.Eventually(s.t, func() bool { return get(client, "/readyz") == nil }, patience, pause, "not ready")
}

func (s *runningServer) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

func (s *runningServer) get(path string) error { return get(s.config, path) }

func get(config *rest.Config, path string) error {
	_, err := read(config, path)
	return err
}

// read gets a path that is no resource.
func read(config *rest.Config, path string) ([]byte, error) {
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return disco.RESTClient().Get().AbsPath(path).DoRaw(ctx)
}
