package validate

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		name string
		ops  []*pb.RequestOp
		dup  bool
	}{
		{"different puts", ops(put("a"), put("b")), false},
		{"same put twice", ops(put("a"), put("b"), put("a")), true},
		{"put and read", ops(put("a"), get("a", ""), get("a", "b")), false},
		{"same delete twice", ops(del("a", ""), del("a", ""), del("a", "c"), del("b", "d")), false},

		{"put, then delete", ops(put("a"), del("a", "")), true},
		{"delete, then put", ops(del("a", ""), put("a")), true},
		{"delete beside put", ops(del("a", ""), put("a\x00")), false},
		{"put at a range's start", ops(del("a", "c"), put("a")), true},
		{"put within a range", ops(del("a", "c"), put("b\xff")), true},
		{"put at a range's end", ops(del("a", "c"), put("c")), false},
		{"put before a range", ops(del("b", "c"), put("a")), false},
		{"put in the second of two ranges", ops(del("a", "c"), del("d", "f"), put("e")), true},
		{"put between two ranges", ops(del("a", "c"), del("d", "f"), put("c")), false},
		{"inverted range", ops(del("c", "a"), put("b")), false},

		// From-key deletes are empty intervals to etcd.
		{"put from key", ops(del("a", "\x00"), put("a"), put("b")), false},
		{"put and delete of everything", ops(del("\x00", "\x00"), put("a")), false},

		{"then and else put the same", ops(nested(either(ops(put("a")), ops(put("a"))))), false},
		{"then puts, else deletes", ops(nested(either(ops(put("a")), ops(del("a", ""))))), false},
		{"then deletes, else puts", ops(nested(either(ops(del("a", "")), ops(put("a"))))), false},
		{"then puts twice", ops(nested(then(put("a"), put("a")))), true},
		{"else puts twice", ops(nested(otherwise(put("a"), put("a")))), true},

		{"put and nested put", ops(put("a"), nested(then(put("a")))), true},
		{"put and nested put otherwise", ops(put("a"), nested(otherwise(put("a")))), true},
		{"nested put, then put", ops(nested(then(put("a"))), put("a")), true},
		{"put and nested delete", ops(put("b"), nested(then(del("a", "c")))), true},
		{"put and nested delete otherwise", ops(put("b"), nested(otherwise(del("a", "c")))), true},
		{"delete and nested put", ops(nested(then(put("b"))), del("a", "c")), true},
		{"delete and nested put otherwise", ops(nested(otherwise(put("b"))), del("a", "c")), true},

		{"two nested puts", ops(nested(then(put("a"))), nested(then(put("a")))), true},
		{"two nested puts in else branches", ops(nested(otherwise(put("a"))), nested(otherwise(put("a")))), true},
		{"two nested puts, then and else", ops(nested(then(put("a"))), nested(otherwise(put("a")))), true},
		{"both branches, twice", ops(nested(either(ops(put("a")), ops(put("a")))), nested(either(ops(put("a")), ops(put("a"))))), true},
		{"nested delete, then nested put", ops(nested(then(del("a", ""))), nested(then(put("a")))), true},
		{"nested delete otherwise, then nested put", ops(nested(otherwise(del("a", ""))), nested(otherwise(put("a")))), true},
		// Etcd looks at a nested transaction's deletes only after its puts, and never looks back.
		{"nested put, then nested delete", ops(nested(then(put("a"))), nested(then(del("a", "")))), false},

		{"two levels down", ops(put("a"), nested(then(nested(otherwise(put("a")))))), true},
		{"delete two levels down", ops(put("a"), nested(then(nested(otherwise(del("a", "b")))))), true},
		{"then and else of different levels", ops(nested(either(ops(put("a")), ops(nested(then(put("a"))))))), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want error
			if tt.dup {
				want = rpctypes.ErrGRPCDuplicateKey
			}
			require.Equal(t, want, Txn(then(tt.ops...), 10))
			require.Equal(t, want, Txn(otherwise(tt.ops...), 10))
			require.NoError(t, Txn(either(ops(put("a")), ops(put("a"))), 10), "top level branches exclude each other")
		})
	}
}

func TestCompareAndSwapDoesNotAllocate(t *testing.T) {
	r := &pb.TxnRequest{Compare: when(compare("a", "")).Compare, Success: ops(put("a")), Failure: ops(get("a", ""))}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := Txn(r, 128); err != nil {
			t.Fatal(err)
		}
	}))
}

// An effect is a put or a delete, with the way that leads to it: which operation of a list, which branch of it.
type effect struct {
	way      []step
	put      bool
	key, end string
}

type step struct{ op, branch int }

func effects(list []*pb.RequestOp, way []step) []effect {
	var all []effect
	for i, op := range list {
		here := func(branch int) []step { return append(slices.Clone(way), step{i, branch}) }
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			all = append(all, effect{way: here(0), put: true, key: string(o.RequestPut.Key)})
		case *pb.RequestOp_RequestDeleteRange:
			d := o.RequestDeleteRange
			all = append(all, effect{way: here(0), key: string(d.Key), end: string(d.RangeEnd)})
		case *pb.RequestOp_RequestTxn:
			all = append(all, effects(o.RequestTxn.Success, here(0))...)
			all = append(all, effects(o.RequestTxn.Failure, here(1))...)
		}
	}
	return all
}

// collide is etcd's rule for a put and another effect, pair by pair.
func collide(put, other effect) bool {
	depth := 0
	for put.way[depth] == other.way[depth] {
		depth++
	}
	p, o := put.way[depth], other.way[depth]
	if p.op == o.op {
		return false // two branches of one transaction
	}
	if other.put {
		return put.key == other.key
	}
	if other.end == "" && put.key != other.key || other.end != "" && (put.key < other.key || put.key >= other.end) {
		return false
	}
	bothNested := len(put.way) > depth+1 && len(other.way) > depth+1
	return !bothNested || o.op < p.op
}

func TestOverlapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawOps(t, 3)
		var want error
		all := effects(list, nil)
		for i, a := range all {
			for j, b := range all {
				if i != j && a.put && collide(a, b) {
					want = rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
		require.Equal(t, want, Txn(then(list...), 1000))
		require.Equal(t, want, Txn(otherwise(list...), 1000))
	})
}

// drawOps draws a list of operations, with at most depth levels. Collisions are neither rare nor the rule.
func drawOps(t *rapid.T, depth int) []*pb.RequestOp {
	name := rapid.StringMatching(`[a-h][a-c]?`)
	end := rapid.OneOf(rapid.Just(""), rapid.Just("\x00"), name)
	list := make([]*pb.RequestOp, rapid.IntRange(0, 4).Draw(t, "ops"))
	for i := range list {
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind < 4:
			list[i] = put(name.Draw(t, "key"))
		case kind < 6:
			list[i] = del(name.Draw(t, "key"), end.Draw(t, "end"))
		case kind < 7 || depth == 1:
			list[i] = get(name.Draw(t, "key"), end.Draw(t, "end"))
		default:
			list[i] = nested(either(drawOps(t, depth-1), drawOps(t, depth-1)))
		}
	}
	return list
}
