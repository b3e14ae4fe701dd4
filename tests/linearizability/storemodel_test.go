package linearizability

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// The whole store: a few keys in groups, each of which is on another member.
const (
	groups       = 3
	keysPerGroup = 2
	keys         = groups * keysPerGroup
)

// cell is a key's state; zero: it is absent.
type cell struct{ value, create, mod, version int64 }

// store is the state of an etcd.
type store struct {
	rev   int64
	cells [keys]cell
}

// pin is a compare: the key's ModRevision is mod.
type pin struct {
	key int
	mod int64
}

// change puts a value, which is unique, or, if it is 0, deletes.
type change struct {
	key   int
	value int64
}

// storeInput is a transaction: if all pins hold, the changes are made, in order; in any case the keys of look are read then.
// A plain get, list, put or delete is one as well.
type storeInput struct {
	pins    []pin
	below   int64 // a compare of the range of all keys: none that is present has a ModRevision from here on; 0: no such compare
	all     bool  // the changes are a range delete
	changes []change
	look    []int
	stale   bool // serializable: it may be served from the past
}

type storeOutput struct {
	rev    int64
	done   bool   // the pins held
	before []cell // of the changed keys, in their order, where they were asked for
	seen   []cell // of look
	lost   bool   // the answer did not come: what the witness says is here, and neither before nor seen are known
}

// storeModel is one etcd with keys cells, where a revision may pass without an event but none goes backwards: a write is at a
// revision above all before it, anything else at one that is not below.
func storeModel(first int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return store{rev: first} },
		Step: func(state, input, output any) (bool, any) {
			s := state.(store)
			return s.step(input.(storeInput), output.(storeOutput))
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

func (s store) step(in storeInput, out storeOutput) (bool, store) {
	holds := !slices.ContainsFunc(in.pins, func(p pin) bool { return s.cells[p.key].mod != p.mod }) &&
		(in.below == 0 || !slices.ContainsFunc(s.cells[:], func(c cell) bool { return c.mod >= in.below }))
	if out.done != holds || out.rev < s.rev {
		return false, s
	}
	next, wrote := s, false
	next.rev = out.rev
	if holds {
		for i, c := range in.changes {
			if out.before != nil && out.before[i] != s.cells[c.key] {
				return false, s
			}
			wrote = wrote || c.value != 0 || s.cells[c.key] != cell{}
			next.cells[c.key] = s.cells[c.key].after(c, out.rev)
		}
	}
	if wrote && out.rev == s.rev {
		return false, s
	}
	for i, k := range in.look {
		if !out.lost && out.seen[i] != next.cells[k] {
			return false, s
		}
	}
	return true, next
}

func (c cell) after(ch change, rev int64) cell {
	switch {
	case ch.value == 0:
		return cell{}
	case c == cell{}:
		return cell{value: ch.value, create: rev, mod: rev, version: 1}
	}
	return cell{value: ch.value, create: c.create, mod: rev, version: c.version + 1}
}

// narrow narrows the requests' times by what the order of revisions demands: a request comes after all that are at lower
// revisions, and after the write at its own. So the end of time, where a lost answer would come, and the beginning, from where on a
// stale read may be served, turn into moments close by; and porcupine, which tries requests in the order of their calls, is
// fast. What it has to find stays the same.
func narrow(history []porcupine.Operation) {
	slices.SortFunc(history, func(a, b porcupine.Operation) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Call, b.Call))
	})
	var rev, before, beside int64 // calls: of all before the revision, and of reads at the revision
	for i := range history {
		op := &history[i]
		if revision(*op) != rev {
			rev, before = revision(*op), max(before, beside)
		}
		if op.Input.(storeInput).stale {
			op.Call = 0
		}
		op.Call = min(max(op.Call, before), op.Return)
		if rank(*op) == 0 {
			before = op.Call
		} else {
			beside = max(beside, op.Call)
		}
	}
	after := int64(never) // the first answer of all that come later in the order; only writes get lost
	for i := len(history) - 1; i >= 0; i-- {
		op := &history[i]
		if op.Return == never {
			op.Return = max(after, op.Call)
		}
		after = min(after, op.Return)
	}
}

func revision(op porcupine.Operation) int64 { return op.Output.(storeOutput).rev }

// rank is 0 of what made its revision, and 1 of what only saw it.
func rank(op porcupine.Operation) int {
	in, out := op.Input.(storeInput), op.Output.(storeOutput)
	puts := slices.ContainsFunc(in.changes, func(c change) bool { return c.value != 0 })
	removes := slices.ContainsFunc(out.before, func(c cell) bool { return c != cell{} })
	if out.done && (puts || out.lost || removes && len(in.changes) > 0) {
		return 0
	}
	return 1
}
