package kubernetes

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"github.com/metaetcd/metaetcd/tests/kubernetes/testserver"
)

// TestEtcd3Watch is what k8s.io/apiserver/pkg/storage/etcd3/watcher_test.go calls.
func TestEtcd3Watch(t *testing.T) {
	cases := []testCase{
		etcdInterface("Watch", storagetesting.RunTestWatch),
		etcdInterface("ClusterScopedWatch", storagetesting.RunTestClusterScopedWatch),
		etcdInterface("NamespaceScopedWatch", storagetesting.RunTestNamespaceScopedWatch),
		etcdInterface("DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch),
		etcdTest("WatchFromZero", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestWatchFromZero(ctx, t, st, st.compact)
		}),
		etcdInterface("WatchFromNonZero", storagetesting.RunTestWatchFromNonZero),
		etcdInterface("DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery),
		etcdTest("WatchError", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestWatchError(ctx, t, st)
		}),
		etcdInterface("WatchContextCancel", storagetesting.RunTestWatchContextCancel),
		etcdInterface("WatcherTimeout", storagetesting.RunTestWatcherTimeout),
		etcdInterface("WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV),
		etcdInterface("WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal),
		{name: "ProgressNotify", run: func(t *testing.T, s side) {
			ctx, st := newEtcdStore(t, s, etcdSetup{server: progressive(t)})
			storagetesting.RunOptionalTestProgressNotify(ctx, t, st, st.increaseRV())
		}},
		alone("WatchWithUnsafeDelete", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, st, corruptObject(t))
		}),
		alone("WatchDispatchBookmarkEvents", func(t *testing.T, s side) { // it gives itself three seconds
			ctx, st := newEtcdStore(t, s, etcdSetup{server: progressive(t)})
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, st, false)
		}),
		etcdInterface("SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility),
		etcdTest("WatchErrorEventIsBlockingFurtherEvent", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, st)
		}),
	}
	for _, stream := range []bool{false, true} {
		cases = append(cases, watchSemantics(stream))
	}
	runCases(t, cases)
}

// watchSemantics are the tests of watches that begin with a list, taken as a stream or page by page.
func watchSemantics(stream bool) testCase {
	return alone(fmt.Sprintf("RangeStream=%v", stream), func(t *testing.T, s side) {
		setGate(t, features.EtcdRangeStream, stream)
		semantics := func(name string, run func(context.Context, *testing.T, storage.Interface)) testCase {
			return alone(name, etcdInterface(name, run).run) // they set a gate themselves
		}
		runOn(t, s, []testCase{
			semantics("WatchSemantics", storagetesting.RunWatchSemantics),
			alone("WatchSemanticsWithConcurrentDecode", func(t *testing.T, s side) {
				setGate(t, features.ConcurrentWatchObjectDecode, true)
				ctx, st := newEtcdStore(t, s, etcdSetup{})
				storagetesting.RunWatchSemantics(ctx, t, st)
			}),
			semantics("WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended),
			semantics("WatchListMatchSingle", storagetesting.RunWatchListMatchSingle),
		})
	})
}

// progressive is a server that tells idle watches of progress each second.
func progressive(t *testing.T) *embed.Config {
	cfg := testserver.NewTestConfig(t)
	cfg.WatchProgressNotifyInterval = time.Second
	return cfg
}
