package kubernetes

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
)

// cacherTest is a test of the default watch cache.
func cacherTest(name string, run func(ctx context.Context, t *testing.T, c *cached)) testCase {
	return cacherTestWith(name, cacherSetup{}, run)
}

func cacherTestWith(name string, setup cacherSetup, run func(ctx context.Context, t *testing.T, c *cached)) testCase {
	return testCase{name: name, run: func(t *testing.T, s side) {
		ctx, c := newCached(t, s, setup)
		run(ctx, t, c)
	}}
}

// cacherInterface is a test of upstream's that wants a store and nothing else.
func cacherInterface(name string, run func(context.Context, *testing.T, storage.Interface)) testCase {
	return cacherTest(name, func(ctx context.Context, t *testing.T, c *cached) { run(ctx, t, c) })
}

// What lies in etcd and how often it is asked is etcd3's business, not the cache's.
func notStored(context.Context, *testing.T, string) {}
func notCounted(*testing.T, uint64, uint64)         {}

// TestCacher is what k8s.io/apiserver/pkg/storage/cacher/cacher_test.go calls.
func TestCacher(t *testing.T) {
	runCases(t, []testCase{
		cacherTest("Create", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestCreate(ctx, t, c, notStored)
		}),
		cacherInterface("CreateWithTTL", storagetesting.RunTestCreateWithTTL),
		cacherInterface("CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist),
		alone("Get", func(t *testing.T, s side) {
			ctx, c := newCached(t, s, cacherSetup{server: lasting(t)})
			storagetesting.RunTestGet(ctx, t, c)
		}),
		cacherInterface("UnconditionalDelete", storagetesting.RunTestUnconditionalDelete),
		cacherInterface("ConditionalDelete", storagetesting.RunTestConditionalDelete),
		cacherInterface("DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion),
		cacherInterface("DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict),
		cacherInterface("DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject),
		cacherInterface("ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion),
		cacherInterface("ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid),
		cacherInterface("DeleteWithConflict", storagetesting.RunTestDeleteWithConflict),
		alone("DeleteWithConflictAndMissingExpectedTransformOrDecodeError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			transformer := &failingTransformer{Transformer: identity.NewEncryptCheckTransformer()}
			ctx, c := newCached(t, s, cacherSetup{transformer: transformer})
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, c, transformer.fail.Store)
		}),
		alone("DeleteWithConflictAndExpectedTransformError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			transformer := &failingTransformer{Transformer: identity.NewEncryptCheckTransformer()}
			ctx, c := newCached(t, s, cacherSetup{transformer: transformer})
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, c, transformer.fail.Store)
		}),
		alone("DeleteWithConflictAndExpectedDecodeError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			etcd3.TestOnlySetFatalOnDecodeError(t, false)
			codec := &failingCodec{Codec: protoPods}
			ctx, c := newCached(t, s, cacherSetup{codec: codec})
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, c, codec.fail.Store)
		}),
		alone("DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			ctx, c := newCached(t, s, cacherSetup{})
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, c)
		}),
		cacherInterface("PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion),
		cacherInterface("PreconditionalDeleteWithSuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass),
		cacherInterface("GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL),
		cacherInterface("GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict),
		cacherInterface("GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		alone("Stats", func(t *testing.T, s side) {
			for _, sizes := range []bool{true, false} {
				t.Run(fmt.Sprintf("SizeBasedListCostEstimate=%v", sizes), func(t *testing.T) {
					setGate(t, features.SizeBasedListCostEstimate, sizes)
					ctx, c := newCached(t, s, cacherSetup{})
					storagetesting.RunTestStats(ctx, t, c, protoPods, identity.NewEncryptCheckTransformer(), sizes)
				})
			}
		}),
		cacherInterface("KeySchema", storagetesting.RunTestKeySchema),
	})
}

// TestCacherLists is what cacher_test.go calls for lists.
func TestCacherLists(t *testing.T) {
	cases := []testCase{
		cacherInterface("ListPaging", storagetesting.RunTestListPaging),
		alone("CompactRevision", func(t *testing.T, s side) {
			setGate(t, features.ListFromCacheSnapshot, true)
			ctx, c := newCached(t, s, cacherSetup{})
			storagetesting.RunTestCompactRevision(ctx, t, c, c.increaseRV(), c.compact)
		}),
		cacherInterface("GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix),
		cacherTest("ListContinuation", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuation(ctx, t, c, notCounted)
		}),
		cacherTest("ListPaginationRareObject", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, c, notCounted)
		}),
		cacherTest("ListContinuationWithFilter", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, c, notCounted)
		}),
		cacherTestWith("NamespaceScopedList", cacherSetup{indexed: true}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestNamespaceScopedList(ctx, t, c)
		}),
	}
	for _, snapshots := range []bool{true, false} {
		cases = append(cases, cacherLists(snapshots))
	}
	runCases(t, cases)
}

// cacherLists are the tests of lists with and without snapshots in the cache.
func cacherLists(snapshots bool) testCase {
	return alone(fmt.Sprintf("ListFromCacheSnapshot=%v", snapshots), func(t *testing.T, s side) {
		setGate(t, features.ListFromCacheSnapshot, snapshots)
		runOn(t, s, []testCase{
			cacherTest("List", func(ctx context.Context, t *testing.T, c *cached) {
				storagetesting.RunTestList(ctx, t, c, c.compact, true, c.lists())
			}),
			cacherTest("ConsistentList", func(ctx context.Context, t *testing.T, c *cached) {
				storagetesting.RunTestConsistentList(ctx, t, c, c.increaseRV(), true, true, snapshots)
			}),
			cacherTest("GetListNonRecursive", func(ctx context.Context, t *testing.T, c *cached) {
				storagetesting.RunTestGetListNonRecursive(ctx, t, c.increaseRV(), c)
			}),
		})
	})
}

// TestCacherWatch is what cacher_test.go calls for watches.
func TestCacherWatch(t *testing.T) {
	awaitedTest := func(name string, run func(context.Context, *testing.T, storage.Interface)) testCase {
		return alone(name, func(t *testing.T, s side) {
			ctx, c := newCached(t, s, cacherSetup{})
			run(ctx, t, awaited{c})
		})
	}
	runCases(t, []testCase{
		cacherInterface("Watch", storagetesting.RunTestWatch),
		cacherTest("WatchFromZero", func(ctx context.Context, t *testing.T, c *cached) {
			r := &reopened{c}
			storagetesting.RunTestWatchFromZero(ctx, t, r, r.compact)
		}),
		cacherInterface("DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch),
		cacherInterface("WatchFromNonZero", storagetesting.RunTestWatchFromNonZero),
		cacherInterface("DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery),
		cacherInterface("WatcherTimeout", storagetesting.RunTestWatcherTimeout),
		cacherInterface("WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV),
		cacherInterface("WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal),
		cacherTestWith("ClusterScopedWatch", cacherSetup{clusterScoped: true, indexed: true}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestClusterScopedWatch(ctx, t, c)
		}),
		cacherTestWith("NamespaceScopedWatch", cacherSetup{indexed: true}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestNamespaceScopedWatch(ctx, t, c)
		}),
		alone("WatchDispatchBookmarkEvents", func(t *testing.T, s side) { // it gives itself three seconds
			ctx, c := newCached(t, s, cacherSetup{})
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, c, true)
		}),
		alone("WatchBookmarksWithCorrectResourceVersion", func(t *testing.T, s side) { // it gives itself three seconds
			ctx, c := newCached(t, s, cacherSetup{})
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, c)
		}),
		cacherInterface("SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility),
		awaitedTest("WatchSemantics", storagetesting.RunWatchSemantics),
		awaitedTest("WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended),
		awaitedTest("WatchListMatchSingle", storagetesting.RunWatchListMatchSingle),
	})
}
