package translate_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// budget is the lowest max-txn-ops with which etcd takes a request. It must take it with some.
func budget(t *rapid.T, req *pb.TxnRequest) int {
	for ops := 1; ops < 1000; ops++ {
		err := validate.Txn(req, ops)
		if err == nil || errors.Is(err, validate.ErrReservedKey) { // the reserved names are checked last
			return ops
		}
	}
	t.Fatalf("etcd never takes %v: %v", req, validate.Txn(req, 1000))
	return 0
}

// lowest is the lowest max-txn-ops that ok accepts.
func lowest(ok func(maxTxnOps int) bool) int {
	ops := 1
	for !ok(ops) {
		ops++
	}
	return ops
}

// wide draws a run of any size on keys that no other has, or a read.
func wide(t *rapid.T, r *ring.Ring, index int) *translate.Guarded {
	key := func(i int) string { return fmt.Sprintf("%d/%d", index, i) }
	stamp := int64(100 + index)
	if rapid.IntRange(0, 4).Draw(t, "read") == 0 {
		return translate.Read([]byte(key(0)), stamp, index, r.Slot)
	}
	req := &pb.TxnRequest{}
	for i := range rapid.IntRange(1, 40).Draw(t, "keys") {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			absent(key(i), req)
		case 1:
			req.Success = append(req.Success, remove(key(i), "").Success...)
		case 2:
			req.Success = append(req.Success, nested(put(key(i), "")))
		default:
			req.Success = append(req.Success, put(key(i), "").Success...)
		}
	}
	plan, v := translate.NewPlan(req, r), &view{}
	run, err := v.evaluate(plan)
	require.NoError(t, err)
	g, err := plan.Guard(run, v.state, stamp, index, r.Slot)
	require.NoError(t, err)
	return g
}

// What fits is taken by etcd; and little is left unused.
func TestBatchesFitTheBudget(t *testing.T) {
	r, err := ring.New([]string{"m"}, 4096, ring.Policy{})
	require.NoError(t, err)
	const slack = 3
	rapid.Check(t, func(t *rapid.T) {
		b := &translate.Batch{Epoch: 1}
		costliest := 0
		clocks := map[int]bool{}
		for i := range rapid.IntRange(0, 8).Draw(t, "operations") {
			g := wide(t, r, i)
			if slices.ContainsFunc(g.Slots, func(s int) bool { return clocks[s] }) {
				continue
			}
			for _, s := range g.Slots {
				clocks[s] = true
			}
			b.Ops = append(b.Ops, g)
			costliest = max(costliest, g.Cost())
		}
		for i := range rapid.IntRange(0, 600).Draw(t, "surrendered") {
			b.Surrender = append(b.Surrender, int64(1000+i))
		}
		if len(b.Ops)+len(b.Surrender) == 0 {
			return
		}
		need := budget(t, b.Request())
		fits := lowest(func(ops int) bool { return translate.Fits(len(b.Ops), costliest, ops) })
		require.GreaterOrEqual(t, fits, need)
		require.LessOrEqual(t, fits, need+slack)

		if len(b.Ops) == 0 || !b.CanTogether(1000) {
			return
		}
		b.Together = true
		need = budget(t, b.Request())
		fits = lowest(b.CanTogether)
		require.GreaterOrEqual(t, fits, need)
		require.LessOrEqual(t, fits, need+slack)
	})
}

func TestExclusiveCostIsExact(t *testing.T) {
	r, err := ring.New([]string{"m"}, 4096, ring.Policy{})
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		req := txns{t, etcd{}, true}.draw()
		if req == nil {
			return
		}
		plan, v := translate.NewPlan(req, r), &view{}
		run, err := v.evaluate(plan)
		if err != nil || !plan.Exclusive() {
			return
		}
		x, err := plan.Exclude(run, v.state, 1, 100, 1, known, r.Slot)
		require.Equal(t, run.Rounds(), err != nil)
		if err != nil {
			return
		}
		require.Equal(t, budget(t, x.Txn), x.Cost())
	})
}

// A share's request of as many operations as there is room for is taken, whatever max-txn-ops is.
func TestRoom(t *testing.T) {
	for _, ops := range []int{20, 21, 24, 29, 32, 128} {
		most := translate.Room(ops)
		t.Logf("%d operations with max-txn-ops %d", most, ops)
		h := translate.Hold{Whole: true, Leases: make([]int64, most-1)}
		for i := range h.Leases {
			h.Leases[i] = int64(i) // what is deleted twice is refused
		}
		require.ErrorIs(t, validate.Txn(h.Abort(1, 0, 0, ops), ops), validate.ErrReservedKey)
	}
}
