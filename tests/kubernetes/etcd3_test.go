package kubernetes

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// etcdTest is a test of etcd3's default store.
func etcdTest(name string, run func(ctx context.Context, t *testing.T, st *etcdStore)) testCase {
	return testCase{name: name, run: func(t *testing.T, s side) {
		ctx, st := newEtcdStore(t, s, etcdSetup{})
		run(ctx, t, st)
	}}
}

// etcdInterface is a test of upstream's that wants a store and nothing else.
func etcdInterface(name string, run func(context.Context, *testing.T, storage.Interface)) testCase {
	return etcdTest(name, func(ctx context.Context, t *testing.T, st *etcdStore) { run(ctx, t, st) })
}

// streamed is a test that runs without and with lists as streams.
func streamed(name string, run func(t *testing.T, s side, stream bool)) testCase {
	return alone(name, func(t *testing.T, s side) {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("rangeStream=%v", stream), func(t *testing.T) {
				setGate(t, features.EtcdRangeStream, stream)
				freshSupport(t)
				run(t, s, stream)
			})
		}
	})
}

// TestEtcd3 is what k8s.io/apiserver/pkg/storage/etcd3/store_test.go calls.
func TestEtcd3(t *testing.T) {
	runCases(t, []testCase{
		etcdTest("Create", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestCreate(ctx, t, st, st.stored)
		}),
		etcdInterface("CreateWithTTL", storagetesting.RunTestCreateWithTTL),
		etcdInterface("CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist),
		alone("Get", func(t *testing.T, s side) {
			ctx, st := newEtcdStore(t, s, etcdSetup{server: lasting(t)})
			storagetesting.RunTestGet(ctx, t, st)
		}),
		etcdInterface("UnconditionalDelete", storagetesting.RunTestUnconditionalDelete),
		etcdInterface("ConditionalDelete", storagetesting.RunTestConditionalDelete),
		etcdInterface("DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion),
		etcdInterface("DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict),
		etcdInterface("DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject),
		etcdInterface("ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion),
		etcdInterface("ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid),
		etcdInterface("DeleteWithConflict", storagetesting.RunTestDeleteWithConflict),
		alone("DeleteWithConflictAndMissingExpectedTransformOrDecodeError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			codec := &failingCodec{Codec: apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)}
			ctx, st := newEtcdStore(t, s, etcdSetup{codec: codec})
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, st, codec.fail.Store)
		}),
		alone("DeleteWithConflictAndExpectedTransformError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			transformer := &failingTransformer{Transformer: storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)}
			ctx, st := newEtcdStore(t, s, etcdSetup{transformer: transformer})
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, st, transformer.fail.Store)
		}),
		alone("DeleteWithConflictAndExpectedDecodeError", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			codec := &failingCodec{Codec: apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)}
			ctx, st := newEtcdStore(t, s, etcdSetup{codec: codec})
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, st, codec.fail.Store)
		}),
		alone("DeleteWithSuggestionAndMissingExpectedTransformOrDecodeFailure", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, st)
		}),
		etcdInterface("PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion),
		etcdInterface("PreconditionalDeleteWithSuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass),
		etcdInterface("KeySchema", storagetesting.RunTestKeySchema),
		etcdTest("GuaranteedUpdate", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, st, st.stored)
		}),
		etcdInterface("GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL),
		etcdTest("GuaranteedUpdateChecksStoredData", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, st)
		}),
		etcdInterface("GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict),
		etcdInterface("GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		etcdTest("TransformationFailure", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestTransformationFailure(ctx, t, st)
		}),
		alone("Stats", func(t *testing.T, s side) {
			for _, sizes := range []bool{true, false} {
				t.Run(fmt.Sprintf("SizeBasedListCostEstimate=%v", sizes), func(t *testing.T) {
					ctx, st := newEtcdStore(t, s, etcdSetup{})
					if sizes {
						if err := st.EnableResourceSizeEstimation(st.keys); err != nil {
							t.Fatal(err)
						}
					}
					storagetesting.RunTestStats(ctx, t, st, st.codec, st.transformer, sizes)
				})
			}
		}),
	})
}

// TestEtcd3Lists is what store_test.go calls for lists.
func TestEtcd3Lists(t *testing.T) {
	runCases(t, []testCase{
		streamed("List", func(t *testing.T, s side, stream bool) {
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestList(ctx, t, st, st.compact, false, st.lists())
			if streams := st.kv().GetStreamReadsAndReset(); (streams > 0) != stream {
				t.Errorf("%d lists came as streams", streams)
			}
		}),
		streamed("ConsistentList", func(t *testing.T, s side, _ bool) {
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestConsistentList(ctx, t, st, st.increaseRV(), false, true, false)
		}),
		etcdInterface("ListPaging", storagetesting.RunTestListPaging),
		etcdTest("GetListNonRecursive", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, st.increaseRV(), st)
		}),
		etcdInterface("GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix),
		alone("GetListWithErrorAggregation", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, true)
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			st.Interface = etcd3.NewStoreWithUnsafeCorruptObjectDeletion(st.Interface, pods)
			storagetesting.RunTestGetListWithErrorAggregation(ctx, t, st, corruptObject(t))
		}),
		alone("GetListWithoutErrorAggregation", func(t *testing.T, s side) {
			setGate(t, features.AllowUnsafeMalformedObjectDeletion, false)
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, st, corruptObject(t))
		}),
		alone("CompactRevision", func(t *testing.T, s side) {
			setGate(t, features.ListFromCacheSnapshot, true)
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestCompactRevision(ctx, t, st, st.increaseRV(), st.compact)
		}),
		etcdTest("ListContinuation", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestListContinuation(ctx, t, st, st.calls)
		}),
		alone("ListPaginationRareObject", func(t *testing.T, s side) {
			setGate(t, features.ListFromCacheSnapshot, false) // the look at the compacted revision would be counted
			ctx, st := newEtcdStore(t, s, etcdSetup{})
			storagetesting.RunTestListPaginationRareObject(ctx, t, st, st.calls)
		}),
		etcdTest("ListContinuationWithFilter", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, st, st.calls)
		}),
		etcdInterface("NamespaceScopedList", storagetesting.RunTestNamespaceScopedList),
		etcdTest("ListInconsistentContinuation", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, st, st.compact)
		}),
		etcdTest("ListResourceVersionMatch", func(ctx context.Context, t *testing.T, st *etcdStore) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, st)
		}),
	})
}
