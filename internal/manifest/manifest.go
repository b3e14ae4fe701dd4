// Package manifest knows what a member transaction says about itself: for every stamp that arrives with it, what became of
// it and what it touched. Whoever follows a member's manifests knows all stamps that came there, without the keys. It is pure.
//
// Invariants:
//
//   - Every member transaction that brings stamps puts one manifest under the same name, and one more for each operation whose outcome
//     is decided inside of it: what arrives with a member revision is the set of manifests in that revision.
//   - A stamp is in one manifest of a revision, once.
//   - Names stand in the order of the operations: that is the order of the revision's events.
//   - Equal entries have equal bytes.
package manifest

import (
	"bytes"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// Kind says what became of a stamp that arrived at a member.
type Kind byte

// The kinds. What has one of the first group took effect, if only by finding nothing to change.
const (
	Landed    Kind = iota + 1
	Exclusive      // landed: a transaction for the whole member, alone in its revision
	Parted         // landed: a part of a transaction across members, alone in its revision
	Taken          // landed: the clock of slots that were taken from a transaction whose writer had gone

	Fenced      // refused: the fence was at or above the stamp, or the member was locked
	Pinned      // refused: a slot clock or a key was at or above the stamp, or a pinned state had changed
	Surrendered // never sent, or refused by the server
)

// Landed reports whether the stamp took effect.
func (k Kind) Landed() bool { return k >= Landed && k <= Taken }

// String names the kind as logs do.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

var kindNames = [...]string{"unknown", "landed", "exclusive", "parted", "taken", "fenced", "pin", "surrendered"}

// Entry is what a manifest says of one stamp.
type Entry struct {
	Stamp int64
	Kind  Kind
	Part  Part   // if Parted
	Names []Name // what it touched; nothing, if it was refused
}

// Part says which part of a transaction across members this is.
type Part struct {
	Index  int
	Shares []Share // of all parts, in their order
}

// Share is how many parts in a row a member takes.
type Share struct {
	Member int // its number
	Parts  int
}

// Of is how many parts there are.
func (p Part) Of() (n int) {
	for _, s := range p.Shares {
		n += s.Parts
	}
	return n
}

// Touch is what an operation does to a key, or to the keys of a range.
type Touch byte

// The touches.
const (
	Put Touch = iota + 1
	Deleted
	Compared // and not written
	Read     // by a fenced read
)

// Name names what one operation touched: a key, or, with an End, a range in etcd's convention. Keys that are longer than MaxName are
// cut: what is left of such a key, and its hash, tell it from all others.
type Name struct {
	Touch Touch
	Op    int // of a part: the operation's place in its transaction
	Key   []byte
	End   []byte

	Cut  bool   // Key is the beginning of a longer key
	Slot int    // of a key that is cut
	Hash uint64 // of a key that is cut: of the whole of it
}

const (
	// MaxName is the length from which on keys are cut.
	MaxName = 256
	// cutTo is what is left of them.
	cutTo = 32
	// least is from which length on it saves bytes to cut a key.
	least = 12
)

// Shorten cuts a key that is longer than most, a length of MaxName or less. Ranges stay whole: their bounds decide what they hold.
func (n Name) Shorten(most int, slotOf func(key []byte) int) Name {
	if len(n.End) > 0 || len(n.Key) <= max(most, least) {
		return n
	}
	n.Cut, n.Slot, n.Hash, n.Key = true, slotOf(n.Key), xxhash.Sum64(n.Key), n.Key[:min(most, cutTo)]
	return n
}

// Names reports whether the name is that of a key, or of a range that holds it.
func (n *Name) Names(key []byte) bool {
	switch {
	case n.Cut:
		return len(key) > len(n.Key) && bytes.HasPrefix(key, n.Key) && xxhash.Sum64(key) == n.Hash
	case len(n.End) > 0:
		return keyrange.Of(n.Key, n.End).Contains(key)
	}
	return bytes.Equal(n.Key, key)
}

// Highest returns the highest stamp of entries; 0: there are none.
func Highest(entries []Entry) (stamp int64) {
	for i := range entries {
		stamp = max(stamp, entries[i].Stamp)
	}
	return stamp
}

// Of makes entries of one kind, without names.
func Of(kind Kind, stamps ...int64) []Entry {
	entries := make([]Entry, len(stamps))
	for i, s := range stamps {
		entries[i] = Entry{Stamp: s, Kind: kind}
	}
	return entries
}

// totalNames is what the names of one transaction may take before they are cut as far as can be: a request must not become too large
// for them.
const totalNames = 64 << 10

// Fit shortens the names of one transaction, in place, so that they take little beside the transaction itself.
func Fit(names []Name, slotOf func(key []byte) int) []Name {
	total, longest := 0, 0
	for i := range names {
		total += len(names[i].Key)
		longest = max(longest, len(names[i].Key))
	}
	most := MaxName
	if total > totalNames {
		most = 0
	}
	if longest <= max(most, least) {
		return names
	}
	for i := range names {
		names[i] = names[i].Shorten(most, slotOf)
	}
	return slices.Clip(names)
}
