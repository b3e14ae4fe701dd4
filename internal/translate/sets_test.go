package translate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
)

var shortKey = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 1, 3)

func drawRange(t *rapid.T) Range {
	r := Range{Key: shortKey.Draw(t, "key")}
	switch rapid.IntRange(0, 3).Draw(t, "end") {
	case 0:
		r.End = []byte{0}
	case 1:
		r.End = shortKey.Draw(t, "to")
	}
	return r
}

// A cover has the keys that one of its ranges contains, and no others.
func TestCoverIsTheUnionOfItsRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c cover
		var ranges []Range
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			r := drawRange(t)
			c.add(r)
			ranges = append(ranges, r)
			key := shortKey.Draw(t, "probe")
			want := false
			for _, r := range ranges {
				want = want || r.Contains(key)
			}
			require.Equal(t, want, c.has(key), "%q in %v", key, ranges)
		}
	})
}

// Names keep the places that they got first, however many there are.
func TestFinder(t *testing.T) {
	var f finder[int]
	for i := range 3 * few {
		place, added := f.find(-i)
		require.True(t, added)
		require.Equal(t, i, place)
		for j := range i + 1 {
			place, added := f.find(-j)
			require.False(t, added)
			require.Equal(t, j, place)
		}
	}
	require.Len(t, f.names, 3*few)
}

// What a run does to the leases of its keys, step by step.
func TestLeasesAfterARun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := []string{"a", "b", "c"}
		var r Run
		for range rapid.IntRange(0, 6).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "delete") {
				d := drawRange(t)
				r.Steps = append(r.Steps, Step{Delete: &pb.DeleteRangeRequest{Key: d.Key, RangeEnd: d.End}})
				continue
			}
			put := &pb.PutRequest{Key: []byte(rapid.SampledFrom(keys).Draw(t, "key")), IgnoreLease: rapid.Bool().Draw(t, "keep")}
			if !put.IgnoreLease {
				put.Lease = rapid.Int64Range(0, 2).Draw(t, "lease")
			}
			r.Steps = append(r.Steps, Step{Put: put})
		}
		before := map[string]int64{}
		var touched []touch
		for _, k := range keys {
			before[k] = rapid.Int64Range(0, 2).Draw(t, "before")
			touched = append(touched, touch{key: []byte(k)})
		}
		got := r.leasesAfter(touched, func(key []byte) State {
			return State{KV: &mvccpb.KeyValue{Lease: before[string(key)]}}
		})
		for i, k := range keys {
			want := before[k]
			undone, recreated := false, false // the key is put, and deleted behind or before that
			for j, s := range r.Steps {
				switch {
				case s.Delete != nil && keyrange.Of(s.Delete.Key, s.Delete.RangeEnd).Contains([]byte(k)):
					want = 0
					for _, b := range r.Steps[:j] {
						undone = undone || b.Put != nil && string(b.Put.Key) == k
					}
				case s.Put != nil && string(s.Put.Key) == k:
					for _, b := range r.Steps[:j] {
						recreated = recreated || b.Delete != nil && keyrange.Of(b.Delete.Key, b.Delete.RangeEnd).Contains([]byte(k))
					}
					if !s.Put.IgnoreLease {
						want = s.Put.Lease
					}
				}
			}
			require.Equal(t, want, got[i], "key %q, steps %v", k, r.Steps)
			require.True(t, !undone && !recreated || r.Rounds())
		}
	})
}

// BenchmarkManyKeys plans, evaluates and guards the deletion of so many keys of a lease, each under a condition.
func BenchmarkManyKeys(b *testing.B) {
	for _, n := range []int{1_000, 2_000, 4_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, err := ring.New([]string{"m"}, 4096, ring.Policy{})
			require.NoError(b, err)
			req := &pb.TxnRequest{}
			for i := range n {
				key := fmt.Appendf(nil, "/registry/leases/%06d", i)
				req.Success = append(req.Success, request.Txn(&pb.TxnRequest{
					Compare: []*pb.Compare{request.ModIs(key, 5)},
					Success: []*pb.RequestOp{request.Delete(&pb.DeleteRangeRequest{Key: key})},
				}))
			}
			v := leased{kv: &mvccpb.KeyValue{ModRevision: 5, CreateRevision: 5, Version: 1, Lease: 7}}
			b.ReportAllocs()
			for b.Loop() {
				plan := NewPlan(req, r)
				run, err := plan.Evaluate(v)
				require.NoError(b, err)
				_, err = plan.Guard(run, v.state, 9, 0, r.Slot)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
		})
	}
}

// leased is a view in which every key is there, with a lease.
type leased struct{ kv *mvccpb.KeyValue }

func (l leased) Get([]byte) *mvccpb.KeyValue    { return l.kv }
func (l leased) Range(Range) []*mvccpb.KeyValue { return nil }
func (l leased) state([]byte) State             { return State{KV: l.kv, NativeMod: 3, NativeCreate: 3} }
