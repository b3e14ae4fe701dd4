// Package record is the only place that knows the bytes that metaetcd keeps on a member: the header in
// front of every user value, and the reserved records, whose names begin with byte 0x00.
//
// Invariants:
//
//   - Numbers are big-endian and of fixed width, so that etcd's own Value compare orders them.
//   - A stored user value is always longer than 8 bytes and starts with its stamp, so `Value > be(X)` means
//     "stamp >= X" and `Value < be(X)` means "stamp < X".
//   - Every stamp that reaches a member leaves exactly one mark there: the header of the value it wrote, the
//     clock of the slot it protects, or a mark record.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Reserved is the first byte of every name that metaetcd keeps for itself.
const Reserved = 0x00

// FirstUserKey is the lowest name that a user key may have.
const FirstUserKey = "\x01"

// Names of the reserved records that exist once on a member.
const (
	KeyTopology  = "\x00topology"
	KeyFence     = "\x00fence"
	KeyLock      = "\x00lock"
	KeyClock     = "\x00clock"
	KeyCompacted = "\x00compacted"

	slotPrefix = "\x00slot/"
	slotEnd    = "\x00slot0"
	markPrefix = "\x00mark/"
	markEnd    = "\x00mark0"
	txnPrefix  = "\x00txn/"
	txnEnd     = "\x00txn0"
)

// Kind says what a key on a member is.
type Kind uint8

// The kinds of keys on a member. Unknown is a reserved name that this version does not write.
const (
	User Kind = iota
	Topology
	Fence
	Lock
	Clock
	Compacted
	Slot
	Mark
	Lease
	Attached
	Held
	Txn
	Unknown
)

// KindOf classifies a key.
func KindOf(key []byte) Kind {
	if len(key) == 0 || key[0] != Reserved {
		return User
	}
	switch s := string(key); {
	case len(s) == len(slotPrefix)+2 && s[:len(slotPrefix)] == slotPrefix:
		return Slot
	case len(s) == len(markPrefix)+2 && s[:len(markPrefix)] == markPrefix:
		return Mark
	case s == KeyClock:
		return Clock
	case s == KeyFence:
		return Fence
	case s == KeyLock:
		return Lock
	case s == KeyCompacted:
		return Compacted
	case s == KeyTopology:
		return Topology
	case len(s) > len(attachedPrefix)+8 && s[:len(attachedPrefix)] == attachedPrefix:
		return Attached
	case len(s) == len(leasePrefix)+8 && s[:len(leasePrefix)] == leasePrefix:
		return Lease
	case len(s) > len(heldPrefix)+8 && s[:len(heldPrefix)] == heldPrefix:
		return Held
	case len(s) > len(txnPrefix) && s[:len(txnPrefix)] == txnPrefix:
		return Txn
	}
	return Unknown
}

// SlotKey names the clock of a slot; slot is in [0, 65536).
func SlotKey(slot int) []byte {
	return binary.BigEndian.AppendUint16([]byte(slotPrefix), uint16(slot))
}

// SlotOf returns the slot of a key of kind Slot.
func SlotOf(key []byte) int {
	return int(binary.BigEndian.Uint16(key[len(slotPrefix):]))
}

// SlotRange is the range that holds the clocks of all slots.
func SlotRange() (key, end []byte) { return []byte(slotPrefix), []byte(slotEnd) }

// MarkRange is the range that holds all marks.
func MarkRange() (key, end []byte) { return []byte(markPrefix), []byte(markEnd) }

// MarkKey names the i-th mark of one member transaction; i is in [0, 65536).
func MarkKey(i int) []byte {
	return binary.BigEndian.AppendUint16([]byte(markPrefix), uint16(i))
}

// Reason says why a stamp left a mark record instead of an effect.
type Reason byte

// The reasons of marks.
const (
	Fenced      Reason = iota + 1 // the fence was at or above the stamp, or the member was locked
	SlotAhead                     // a slot clock or a key was at or above the stamp, or a pinned state had changed
	NoOp                          // landed, but nothing was left to change
	Surrendered                   // never sent, or refused by the server
	Exclusive                     // landed: an exclusive transaction, alone in its member revision
	Parted                        // landed: a part of a transaction across members, alone in its member revision; see Part
)

// String names the reason as metrics and logs do.
func (r Reason) String() string {
	switch r {
	case Fenced:
		return "fenced"
	case SlotAhead:
		return "pin"
	case NoOp:
		return "noop"
	case Surrendered:
		return "surrendered"
	case Exclusive:
		return "exclusive"
	case Parted:
		return "parted"
	}
	return fmt.Sprintf("reason-%d", byte(r))
}

// ErrMalformed reports bytes that metaetcd did not write.
var ErrMalformed = errors.New("metaetcd: malformed record")

// Number encodes a stamp, a revision or a slot clock: 8 bytes, ordered as the numbers are.
func Number(n int64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(n)) }

// ParseNumber decodes Number. Bytes behind the number, as in a locked slot's clock, are ignored.
func ParseNumber(b []byte) (int64, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("%w: number of %d bytes", ErrMalformed, len(b))
	}
	n := binary.BigEndian.Uint64(b)
	if n > math.MaxInt64 {
		return math.MaxInt64, nil
	}
	return int64(n), nil
}

// Infinity begins the clock of a locked slot. It is above every stamp, and ParseNumber reads it as math.MaxInt64.
func Infinity() []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), math.MaxUint64) }

// Pair encodes epoch and number, as `fence` and `clock` hold them: 16 bytes, ordered by epoch, then number.
func Pair(epoch, n int64) []byte {
	b := make([]byte, 0, 16)
	b = binary.BigEndian.AppendUint64(b, uint64(epoch))
	return binary.BigEndian.AppendUint64(b, uint64(n))
}

// ParsePair decodes Pair.
func ParsePair(b []byte) (epoch, n int64, err error) {
	if len(b) != 16 {
		return 0, 0, fmt.Errorf("%w: pair of %d bytes", ErrMalformed, len(b))
	}
	epoch, n = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	if epoch < 0 || n < 0 {
		return 0, 0, fmt.Errorf("%w: pair of %#x", ErrMalformed, b)
	}
	return epoch, n, nil
}

// MarkValue encodes a mark record.
func MarkValue(stamp int64, why Reason) []byte {
	return append(Number(stamp), byte(why))
}

// ParseMark decodes MarkValue. Reasons that this version does not know and bytes behind the reason are let through.
func ParseMark(b []byte) (stamp int64, why Reason, err error) {
	if len(b) < 9 {
		return 0, 0, fmt.Errorf("%w: mark of %d bytes", ErrMalformed, len(b))
	}
	stamp, why = int64(binary.BigEndian.Uint64(b)), Reason(b[8])
	if stamp <= 0 || why == 0 {
		return 0, 0, fmt.Errorf("%w: mark of %#x", ErrMalformed, b[:9])
	}
	return stamp, why, nil
}

// MarksValue encodes one record that is the mark of several stamps: of a batch that was refused as a whole. The reason
// is Fenced, SlotAhead or Surrendered.
func MarksValue(stamps []int64, why Reason) []byte {
	b := make([]byte, 0, 8*len(stamps)+1)
	b = binary.BigEndian.AppendUint64(b, uint64(stamps[0]))
	b = append(b, byte(why))
	for _, s := range stamps[1:] {
		b = binary.BigEndian.AppendUint64(b, uint64(s))
	}
	return b
}

// FurtherStamps returns the bytes of the stamps behind the first in a record that ParseMark accepted; they are
// decoded by ParseNumber, eight bytes each. Only refusals have such.
func FurtherStamps(b []byte, why Reason) ([]byte, error) {
	switch why {
	case Fenced, SlotAhead, Surrendered:
	default:
		return nil, nil
	}
	if rest := b[9:]; len(rest)%8 == 0 {
		return rest, nil
	}
	return nil, fmt.Errorf("%w: mark of %d bytes", ErrMalformed, len(b))
}
