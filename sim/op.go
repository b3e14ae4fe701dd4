package main

import (
	"fmt"
	"slices"
	"sort"
)

// readKind is what an operation reads, if it only reads.
type readKind int

const (
	noRead           readKind = iota
	linearizableRead          // of all keys
	serializableRead          // of all keys
	pastRead                  // of all keys, at a closed revision
	fencedRead                // of one key, with a stamp of its own
)

// Action puts a key, or deletes keys.
type Action struct {
	put  bool
	key  int
	val  int
	keys []int // to delete
}

// Compare compares a field of a key.
type Compare struct {
	key, field int
	want       int64
}

// Op is an operation of a client, and what became of it.
type Op struct {
	id         int
	cmps       []Compare
	then, els  []Action
	pre, post  bool // reads everything before, or behind, its writes
	excl       bool // takes a member for itself
	cross      bool // of keys on any members
	read       readKind
	rkey       int
	start, end int // steps

	done bool // answered
	rev  int64
	ans  []int64

	landed int // how often
	T      int64
	evs    []Event
}

func (op *Op) String() string {
	if op.read != noRead {
		return fmt.Sprint("read", int(op.read))
	}
	return fmt.Sprintf("cmps=%v then=%v else=%v pre=%v post=%v excl=%v cross=%v", op.cmps, op.then, op.els, op.pre, op.post, op.excl, op.cross)
}

// keys are those that any branch compares or writes, ascending.
func (op *Op) keys() (ks []int) {
	for _, c := range op.cmps {
		ks = append(ks, c.key)
	}
	for _, a := range op.actions() {
		if a.put {
			ks = append(ks, a.key)
		} else {
			ks = append(ks, a.keys...)
		}
	}
	return sortedSet(ks)
}

// actions are those of both branches.
func (op *Op) actions() []Action { return append(slices.Clone(op.then), op.els...) }

// blind operations put one key, whatever there is.
func (op *Op) blind() bool {
	return len(op.cmps) == 0 && !op.excl && op.then[0].put && len(op.then) == 1
}

// succeeds tells whether all compares hold.
func (op *Op) succeeds(st *State) bool {
	for _, c := range op.cmps {
		if st[c.key].field(c.field) != c.want {
			return false
		}
	}
	return true
}

// branch has the actions that are due.
func (op *Op) branch(succeeded bool) []Action {
	if succeeded {
		return op.then
	}
	return op.els
}

// eval is what the operation means on one store: it changes st, and gives the events and the answer.
func (op *Op) eval(st *State, T int64) (evs []Event, ans []int64) {
	ok := op.succeeds(st)
	ans = append(ans, 0)
	if ok {
		ans[0] = 1
	}
	for i, a := range op.branch(ok) {
		if a.put {
			o := st[a.key]
			ans = append(ans, o.stamp, int64(o.val))
			n := KV{val: a.val, ver: o.ver + 1, stamp: T, create: o.create, ncreate: o.ncreate}
			if o.ver == 0 {
				n.create = T
			}
			st[a.key] = n
			evs = append(evs, Event{T: T, key: a.key, kv: n, op: i})
			continue
		}
		for _, k := range a.keys {
			if st[k].ver > 0 {
				ans = append(ans, int64(k), st[k].stamp)
				st[k] = KV{}
				evs = append(evs, Event{T: T, key: k, del: true, op: i, ranged: len(a.keys) > 1, span: keysOf(a.keys...)})
			}
		}
	}
	return evs, ans
}

// try evaluates the operation on a copy of a state.
func (op *Op) try(st State, T int64) ([]Event, []int64) { return op.eval(&st, T) }

// withReads appends what pre and post read.
func (op *Op) withReads(ans []int64, before, behind *State, keys int) []int64 {
	if op.pre {
		ans = before.encode(ans, keys)
	}
	if op.post {
		ans = behind.encode(ans, keys)
	}
	return ans
}

// sortedSet sorts numbers, and leaves one of each.
func sortedSet(a []int) []int {
	sort.Ints(a)
	return slices.Compact(a)
}
