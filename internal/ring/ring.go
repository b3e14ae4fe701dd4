// Package ring says where a key lives: keys hash to slots, slots go to members.
//
// Invariants:
//
//   - Placement depends on nothing but the set of member names, the number of slots and the policy, so that all
//     processes agree on it without asking each other.
//   - It is a wire format: a change of a hash or of what goes into it loses every stored key.
//   - When a member joins, slots move to it and nowhere else; when one leaves, only its own slots move.
package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// MaxSlots bounds the number of slots: a slot's name on a member has two bytes for it.
const MaxSlots = 1 << 16

// Ring maps keys to slots and slots to members. Members are indices into Names; in what is stored they go by their numbers.
// A Ring is immutable and may be shared by goroutines; the slices that its methods return are the caller's.
type Ring struct {
	names   []string // sorted
	numbers []int    // of the members, in the order of names
	policy  Policy   // canonical
	owner   []int    // slot -> member
	holders []int    // the members that own a slot, ascending
}

// New places slots on the members of these names, which may come in any order. Names must be unique and non-empty;
// they must be valid UTF-8, because topology records are JSON. Each of them should own a slot, so slots ought to
// exceed the number of names by far. The members' numbers are 1 and up, in the order of names, as in a new meta cluster: see
// Numbered.
func New(names []string, slots int, p Policy) (*Ring, error) {
	if err := checkNames(names); err != nil {
		return nil, err
	}
	if slots < 1 || slots > MaxSlots {
		return nil, fmt.Errorf("metaetcd: %d slots, want 1 to %d", slots, MaxSlots)
	}
	if p.Segments < 0 {
		return nil, fmt.Errorf("metaetcd: sharding by %d segments", p.Segments)
	}
	r := &Ring{names: slices.Sorted(slices.Values(names)), policy: p.canonical(), owner: make([]int, slots)}
	for i := range r.names {
		r.numbers = append(r.numbers, i+1)
	}
	owns := make([]bool, len(names))
	for slot := range r.owner {
		r.owner[slot] = heaviest(slot, r.names)
		owns[r.owner[slot]] = true
	}
	for member, ok := range owns {
		if ok {
			r.holders = append(r.holders, member)
		}
	}
	return r, nil
}

func checkNames(names []string) error {
	if len(names) == 0 {
		return errors.New("metaetcd: no members")
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		switch {
		case name == "":
			return errors.New("metaetcd: a member without a name")
		case !utf8.ValidString(name):
			return fmt.Errorf("metaetcd: member name %q is not valid UTF-8", name)
		case seen[name]:
			return fmt.Errorf("metaetcd: two members with the name %q", name)
		}
		seen[name] = true
	}
	return nil
}

// heaviest is rendezvous hashing: every pair of slot and name has a weight, and the heaviest name owns the slot.
// Equal weights go to the lower name.
func heaviest(slot int, names []string) int {
	var best int
	var most uint64
	for i, name := range names {
		if w := weight(slot, name); i == 0 || w > most {
			best, most = i, w
		}
	}
	return best
}

func weight(slot int, name string) uint64 {
	return xxhash.Sum64(append(binary.BigEndian.AppendUint32(nil, uint32(slot)), name...))
}

// Numbered returns the ring with other numbers for its members, in the order of names.
func (r *Ring) Numbered(numbers []int) *Ring {
	x := *r
	x.numbers = slices.Clone(numbers)
	return &x
}

// Number returns the number of a member.
func (r *Ring) Number(member int) int { return r.numbers[member] }

// Numbers returns the numbers of members.
func (r *Ring) Numbers(members ...int) []int {
	out := make([]int, len(members))
	for i, m := range members {
		out[i] = r.numbers[m]
	}
	return out
}

// Member returns the member of a number; an error if no member has it.
func (r *Ring) Member(number int) (int, error) {
	if i := slices.Index(r.numbers, number); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("metaetcd: no member has the number %d, the members have %v", number, r.numbers)
}

// Names returns the members' names, sorted.
func (r *Ring) Names() []string { return slices.Clone(r.names) }

// Policy returns the policy in its canonical form: policies that mean the same are equal there.
func (r *Ring) Policy() Policy { return r.policy }

// Slots returns the number of slots.
func (r *Ring) Slots() int { return len(r.owner) }

// Slot returns the slot of a key.
func (r *Ring) Slot(key []byte) int {
	n, _ := r.policy.route(key)
	return int(xxhash.Sum64(key[:n]) % uint64(len(r.owner)))
}

// Owner returns the member that owns a slot.
func (r *Ring) Owner(slot int) int { return r.owner[slot] }

// MemberOf returns the member that holds a key.
func (r *Ring) MemberOf(key []byte) int { return r.owner[r.Slot(key)] }

// SlotsOf returns the slots that a member owns, ascending.
func (r *Ring) SlotsOf(member int) []int {
	var slots []int
	for slot, m := range r.owner {
		if m == member {
			slots = append(slots, slot)
		}
	}
	return slots
}
