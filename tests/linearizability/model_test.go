package linearizability

import (
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// at makes an operation that was under way from call to answer.
func at(call, answer int64, input, output any) porcupine.Operation {
	return porcupine.Operation{Call: call, Return: answer, Input: input, Output: output}
}

func TestRegisterModel(t *testing.T) {
	first := at(0, 9, registerInput{method: blindPut, value: "a"}, registerOutput{})
	for _, tc := range []struct {
		name string
		ok   bool
		more []porcupine.Operation
	}{
		{"a get of it", true, []porcupine.Operation{at(10, 19, registerInput{method: get}, registerOutput{value: "a"})}},
		{"a get of nothing", false, []porcupine.Operation{at(10, 19, registerInput{method: get}, registerOutput{})}},
		{"a get of nothing, at the same time", true, []porcupine.Operation{at(5, 19, registerInput{method: get}, registerOutput{})}},
		{"new and then old", false, []porcupine.Operation{
			at(0, 3, registerInput{method: get}, registerOutput{value: "a"}),
			at(4, 8, registerInput{method: get}, registerOutput{}),
		}},
		{"two swaps of one value", false, []porcupine.Operation{
			at(10, 19, registerInput{method: swap, value: "b", expected: "a"}, registerOutput{done: true}),
			at(10, 19, registerInput{method: swap, value: "c", expected: "a"}, registerOutput{done: true}),
		}},
		{"a swap and one that lost", true, []porcupine.Operation{
			at(10, 19, registerInput{method: swap, value: "b", expected: "a"}, registerOutput{done: true}),
			at(10, 19, registerInput{method: swap, value: "c", expected: "a"}, registerOutput{value: "b"}),
		}},
		{"a swap that lost for no reason", false, []porcupine.Operation{
			at(10, 19, registerInput{method: swap, value: "b", expected: "a"}, registerOutput{value: "a"}),
		}},
		{"a given up put, seen late", true, []porcupine.Operation{
			at(10, never, registerInput{method: put, value: "b"}, unknown{}),
			at(20, 29, registerInput{method: get}, registerOutput{value: "a"}),
			at(30, 39, registerInput{method: get}, registerOutput{value: "b"}),
		}},
		{"a given up put, seen and undone", false, []porcupine.Operation{
			at(10, never, registerInput{method: put, value: "b"}, unknown{}),
			at(20, 29, registerInput{method: get}, registerOutput{value: "b"}),
			at(30, 39, registerInput{method: get}, registerOutput{value: "a"}),
		}},
		{"a removal of something else", false, []porcupine.Operation{
			at(10, 19, registerInput{method: remove}, registerOutput{value: "b"}),
		}},
		{"a removal if it is what it is not", false, []porcupine.Operation{
			at(10, 19, registerInput{method: removeIf, expected: "b"}, registerOutput{done: true}),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			history := append([]porcupine.Operation{first}, tc.more...)
			require.Equal(t, tc.ok, porcupine.CheckOperations(registerModel(), history))
		})
	}
}

func TestStoreModel(t *testing.T) {
	a, b := cell{7, 2, 2, 1}, cell{8, 3, 3, 1}
	write := func(k int, value int64) storeInput { return storeInput{changes: []change{{k, value}}} }
	read := func(ks ...int) storeInput { return storeInput{look: ks} }
	stale := func(ks ...int) storeInput { return storeInput{look: ks, stale: true} }
	wrote := func(rev int64) storeOutput { return storeOutput{rev: rev, done: true} }
	saw := func(rev int64, cells ...cell) storeOutput { return storeOutput{rev: rev, done: true, seen: cells} }
	swap := func(pinned, key int, value int64) storeInput {
		return storeInput{pins: []pin{{pinned, 2}}, changes: []change{{key, value}}, look: []int{key}}
	}
	// Two writes, one after the other: key 0 at revision 2, key 1 at 3.
	both := []porcupine.Operation{at(0, 9, write(0, 7), wrote(2)), at(10, 19, write(1, 8), wrote(3))}
	for _, tc := range []struct {
		name string
		ok   bool
		more []porcupine.Operation
	}{
		{"a list", true, []porcupine.Operation{at(20, 29, read(0, 1), saw(3, a, b))}},
		{"a list at a revision without an event", true, []porcupine.Operation{at(20, 29, read(0, 1), saw(5, a, b))}},
		{"a list that is behind", false, []porcupine.Operation{at(20, 29, read(0, 1), saw(2, a, cell{}))}},
		{"a list at the revision of another", false, []porcupine.Operation{at(20, 29, read(0, 1), saw(3, a, cell{}))}},
		{"a list under a revision that is to come", false, []porcupine.Operation{at(10, 19, read(0, 1), saw(3, a, cell{}))}},
		{"a header that goes back", false, []porcupine.Operation{
			at(20, 29, read(0), saw(5, a)), at(30, 39, read(0), saw(4, a)),
		}},
		{"a header that stays", true, []porcupine.Operation{
			at(20, 29, read(0), saw(5, a)), at(30, 39, read(0), saw(5, a)),
		}},
		{"a write at a revision that was read before", false, []porcupine.Operation{
			at(20, 29, read(0), saw(5, a)), at(30, 39, write(2, 9), wrote(5)),
		}},
		{"a write at a revision other than its own", false, []porcupine.Operation{
			at(20, 29, write(2, 9), wrote(4)), at(30, 39, read(2), saw(5, cell{9, 5, 5, 1})),
		}},
		{"a version that skips", false, []porcupine.Operation{
			at(20, 29, write(0, 9), wrote(4)), at(30, 39, read(0), saw(4, cell{9, 2, 4, 3})),
		}},
		{"a removal of what is not there", true, []porcupine.Operation{at(20, 29, write(2, 0), wrote(3))}},
		{"a removal at an old revision", false, []porcupine.Operation{at(20, 29, write(0, 0), wrote(3))}},
		{"removals of what is not there, late, and a read", true, []porcupine.Operation{
			at(30, 39, storeInput{changes: []change{{2, 0}}}, storeOutput{rev: 5, done: true, before: []cell{{}}}),
			at(20, 29, read(0), saw(5, a)), at(20, 50, read(1), saw(5, b)),
		}},
		{"another previous value", false, []porcupine.Operation{
			at(20, 29, write(0, 9), storeOutput{rev: 4, done: true, before: []cell{b}}),
		}},
		{"each compares what the other writes", false, []porcupine.Operation{
			at(20, 29, write(1, 9), wrote(4)),
			at(30, 49, storeInput{pins: []pin{{0, 2}}, changes: []change{{1, 10}}}, wrote(5)),
			at(30, 49, storeInput{pins: []pin{{1, 4}}, changes: []change{{0, 11}}}, wrote(6)),
		}},
		{"a compare that fails for no reason", false, []porcupine.Operation{at(20, 29, swap(0, 0, 9), storeOutput{rev: 3, seen: []cell{a}})}},
		{"a compare of all that fails for no reason", false, []porcupine.Operation{
			at(20, 29, storeInput{below: 4, changes: []change{{2, 9}}, look: []int{2}}, storeOutput{rev: 3, seen: []cell{{}}}),
		}},
		{"a compare of all that overlooks one", false, []porcupine.Operation{
			at(20, 29, storeInput{below: 3, changes: []change{{2, 9}}}, wrote(4)),
		}},
		{"a transaction that is half visible", false, []porcupine.Operation{
			at(20, 49, storeInput{changes: []change{{0, 9}, {2, 10}}}, wrote(4)),
			at(30, 39, read(0, 2), saw(4, cell{9, 2, 4, 2}, cell{})),
		}},
		{"a delete of all", true, []porcupine.Operation{
			at(20, 29, storeInput{all: true, changes: []change{{0, 0}, {1, 0}, {2, 0}}}, storeOutput{rev: 4, done: true, before: []cell{a, b, {}}}),
			at(30, 39, read(0, 1), saw(4, cell{}, cell{})),
		}},
		{"a delete of all that misses one", false, []porcupine.Operation{
			at(20, 29, storeInput{all: true, changes: []change{{0, 0}, {1, 0}, {2, 0}}}, storeOutput{rev: 4, done: true, before: []cell{a, {}, {}}}),
		}},
		{"a stale list", true, []porcupine.Operation{at(20, 29, stale(0, 1), saw(2, a, cell{}))}},
		{"a stale list of what never was", false, []porcupine.Operation{at(20, 29, stale(0, 1), saw(2, cell{}, b))}},
		{"a stale list under a newer revision", false, []porcupine.Operation{at(20, 29, stale(0, 1), saw(3, a, cell{}))}},
		{"a stale list of the future", false, []porcupine.Operation{at(5, 9, stale(0, 1), saw(3, a, b))}},
		{"a lost write that is seen", true, []porcupine.Operation{
			at(20, never, write(2, 9), storeOutput{rev: 4, done: true, lost: true}),
			at(30, 39, read(0), saw(3, a)), at(40, 49, read(2), saw(6, cell{9, 4, 4, 1})),
		}},
		{"a lost write that is not seen", false, []porcupine.Operation{
			at(20, never, write(2, 9), storeOutput{rev: 4, done: true, lost: true}), at(40, 49, read(2), saw(6, cell{})),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			history := slices.Concat(both, tc.more)
			narrow(history)
			require.Equal(t, tc.ok, porcupine.CheckOperations(storeModel(1), history))
		})
	}
}
