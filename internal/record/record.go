// Package record is the only place that knows the bytes that metaetcd keeps on a member: the header in
// front of every user value, and the reserved records, whose names begin with byte 0x00.
//
// Invariants:
//
//   - Numbers are big-endian and of fixed width, so that etcd's own Value compare orders them.
//   - A stored user value is always longer than 8 bytes and starts with its stamp, so `Value > be(X)` means
//     "stamp >= X" and `Value < be(X)` means "stamp < X".
//   - Names that everybody follows sort in front of Unfollowed, and every member transaction of metaetcd puts or deletes one of
//     these: a member revision without any is somebody else's.
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
	KeyCompacted = "\x00compacted"
	KeyManifest  = "\x00manifest" // of what is certain when a member transaction runs; see internal/manifest

	KeyClock = Unfollowed + "clock"

	slotPrefix   = "\x00slot/"
	slotEnd      = "\x00slot0"
	nestedPrefix = "\x00m/"
	nestedEnd    = "\x00m0"
	txnPrefix    = Unfollowed + "txn/"
	txnEnd       = Unfollowed + "txn0"
)

// Unfollowed is where the names of those records begin that only some need: they hold other members' values, or are many.
const Unfollowed = "\x00~"

// Followed reports whether a key is a reserved name that everybody follows.
func Followed(key []byte) bool { return len(key) > 0 && key[0] == Reserved && string(key) < Unfollowed }

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
	Manifest
	Nested
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
	case s == KeyManifest:
		return Manifest
	case len(s) == len(nestedPrefix)+2 && s[:len(nestedPrefix)] == nestedPrefix:
		return Nested
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

// NestedRange is the range that holds the manifests of operations that are decided inside of a member transaction.
func NestedRange() (key, end []byte) { return []byte(nestedPrefix), []byte(nestedEnd) }

// NestedKey names the manifest of the i-th such operation of a member transaction; i is in [0, 65536).
func NestedKey(i int) []byte {
	return binary.BigEndian.AppendUint16([]byte(nestedPrefix), uint16(i))
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

// Pair encodes epoch and number, as `fence` holds them, and `clock` in front: 16 bytes, ordered by epoch, then number.
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

// ClockRecord is a member's record `clock`.
type ClockRecord struct {
	Epoch   int64
	Highest int64 // the highest stamp that has arrived
	Closed  int64 // nothing at or below it lands in a later member revision; some process knew that when it sent Highest
}

// Value encodes the record: 24 bytes, ordered by epoch, then by the highest stamp.
func (c ClockRecord) Value() []byte {
	b := make([]byte, 0, 24)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(c.Highest))
	return binary.BigEndian.AppendUint64(b, uint64(c.Closed))
}

// ParseClock decodes ClockRecord.Value.
func ParseClock(b []byte) (c ClockRecord, err error) {
	if len(b) != 24 {
		return ClockRecord{}, fmt.Errorf("%w: clock of %d bytes", ErrMalformed, len(b))
	}
	if c.Epoch, c.Highest, err = ParsePair(b[:16]); err != nil {
		return ClockRecord{}, err
	}
	if c.Closed = int64(binary.BigEndian.Uint64(b[16:])); c.Closed < 0 {
		return ClockRecord{}, fmt.Errorf("%w: clock of %#x", ErrMalformed, b)
	}
	return c, nil
}
