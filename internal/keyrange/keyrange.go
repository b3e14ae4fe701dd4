// Package keyrange has etcd's rule for ranges of keys, once. It is pure.
//
// A range is a key and an end, as in etcd's requests:
//
//	end empty   the single key
//	end {0}     everything from the key on
//	else        [key, end), which is empty where end is not above key
//
// Keys are compared byte by byte. Nothing here changes its arguments; results may share their memory.
package keyrange

import (
	"bytes"
	"strconv"
)

// Range is a range of keys. The zero Range is the single key "".
type Range struct{ Key, End []byte }

// noEnd is the end of a range that has none.
var noEnd = []byte{0}

// Of is the range of a request's key and end.
func Of(key, end []byte) Range { return Range{key, end} }

// From is the range of everything from a key on.
func From(key []byte) Range { return Range{key, noEnd} }

// Prefix is the range of all keys that begin with a prefix. The empty prefix is everything.
func Prefix(prefix []byte) Range { return Range{prefix, PrefixEnd(prefix)} }

// PrefixEnd is the end of the range of all keys that begin with a prefix: the lowest key above all of them, or {0}, no end, if
// there is none. The result is fresh memory.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return bytes.Clone(noEnd)
}

// Single reports whether the range is one key, by its form. [k, k+"\x00") holds one key, too, and is not single.
func (r Range) Single() bool { return len(r.End) == 0 }

// Unbounded reports whether the range is everything from its key on.
func (r Range) Unbounded() bool { return len(r.End) == 1 && r.End[0] == 0 }

// Empty reports whether no key can be in the range.
func (r Range) Empty() bool {
	return !r.Single() && !r.Unbounded() && bytes.Compare(r.Key, r.End) >= 0
}

// Contains reports whether a key is in the range.
func (r Range) Contains(key []byte) bool {
	if r.Single() {
		return bytes.Equal(key, r.Key)
	}
	return bytes.Compare(key, r.Key) >= 0 && (r.Unbounded() || bytes.Compare(key, r.End) < 0)
}

// nothing is a range without keys.
var nothing = Range{[]byte{1}, []byte{1}}

// Above is the part of the range at or above a key. It is Empty if there is none.
func (r Range) Above(key []byte) Range {
	switch {
	case bytes.Compare(r.Key, key) >= 0:
		return r
	case r.Single():
		return nothing
	}
	return Range{key, r.End}
}

// Overlaps reports whether a key can be in both ranges.
func (r Range) Overlaps(o Range) bool {
	if r.Empty() || o.Empty() {
		return false
	}
	return r.Contains(o.Key) || o.Contains(r.Key)
}

// String names the range, uniquely.
func (r Range) String() string {
	return strconv.Quote(string(r.Key)) + "-" + strconv.Quote(string(r.End))
}
