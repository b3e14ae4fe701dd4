package ring

import (
	"bytes"
	"slices"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// MembersOf returns the members that may hold keys of a range of etcd's, ascending, and none if no key can be in it.
//
// The answer is exact: each of these members owns a slot of some key in the range, present or not.
func (r *Ring) MembersOf(key, end []byte) []int {
	whole := keyrange.Of(key, end)
	if whole.Single() {
		return []int{r.MemberOf(key)}
	}
	if whole.Empty() {
		return nil
	}
	var members []int
	if n, shared := r.policy.route(key); shared {
		members = append(members, r.MemberOf(key))
		behind := keyrange.Prefix(key[:n]).End
		if !whole.Contains(behind) { // nor does it if there is nothing behind: {0} is below such a key
			return members
		}
		key = behind
	}
	// Here key stands for itself: it has too few separators to share a part with its successors, and so have
	// the keys that append zeros to it. Where all of those are in the range, every slot is.
	if whole.Unbounded() || !isZeros(key, end) {
		return slices.Clone(r.holders)
	}
	for n := len(key); n < len(end) && len(members) < len(r.holders); n++ {
		members = insert(members, r.MemberOf(end[:n]))
	}
	return members
}

// isZeros reports whether end is key followed by zero bytes: only then does [key, end) hold finitely many keys.
func isZeros(key, end []byte) bool {
	return bytes.HasPrefix(end, key) && len(bytes.TrimLeft(end[len(key):], "\x00")) == 0
}

func insert(members []int, m int) []int {
	i, found := slices.BinarySearch(members, m)
	if found {
		return members
	}
	return slices.Insert(members, i, m)
}
