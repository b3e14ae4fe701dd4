package ring

import (
	"bytes"
	"slices"
)

// MembersOf returns the members that may hold keys of a range, ascending, and none if no key can be in it. Ranges
// are etcd's: with an empty end it is the single key, with end {0} everything from key on, else [key, end).
//
// The answer is exact: each of these members owns a slot of some key in the range, present or not.
func (r *Ring) MembersOf(key, end []byte) []int {
	if len(end) == 0 {
		return []int{r.MemberOf(key)}
	}
	bounded := !isFromKey(end)
	if bounded && bytes.Compare(key, end) >= 0 {
		return nil
	}
	var members []int
	if n, shared := r.policy.route(key); shared {
		members = append(members, r.MemberOf(key))
		key = prefixEnd(key[:n])
		if key == nil || bounded && bytes.Compare(key, end) >= 0 {
			return members
		}
	}
	// Here key stands for itself: it has too few separators to share a part with its successors, and so have
	// the keys that append zeros to it. Where all of those are in the range, every slot is.
	if !bounded || !isZeros(key, end) {
		return slices.Clone(r.holders)
	}
	for n := len(key); n < len(end) && len(members) < len(r.holders); n++ {
		members = insert(members, r.MemberOf(end[:n]))
	}
	return members
}

func isFromKey(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// isZeros reports whether end is key followed by zero bytes: only then does [key, end) hold finitely many keys.
func isZeros(key, end []byte) bool {
	return bytes.HasPrefix(end, key) && len(bytes.TrimLeft(end[len(key):], "\x00")) == 0
}

// prefixEnd returns the lowest key above all keys that begin with prefix, nil if there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

func insert(members []int, m int) []int {
	i, found := slices.BinarySearch(members, m)
	if found {
		return members
	}
	return slices.Insert(members, i, m)
}
