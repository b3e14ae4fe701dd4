package record

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

const (
	leasePrefix    = "\x00lease/"
	attachedPrefix = Unfollowed + "attached/"
	heldPrefix     = Unfollowed + "held/"
)

// LeaseRecord is what every member knows of a lease. A put that attaches a key compares it byte by byte, so nothing is
// attached to a lease that is dead, gone, or another grant of the same id.
type LeaseRecord struct {
	Grant int64 // this grant of the id and no other; also the native id of its timer on the coordinator
	TTL   int64 // in seconds, as granted
	Dead  bool  // nothing can be attached any more, and what is attached is about to be deleted
}

// Encode encodes r. Equal records have equal bytes.
func (r LeaseRecord) Encode() []byte {
	b := make([]byte, 0, 17)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Grant))
	b = binary.BigEndian.AppendUint64(b, uint64(r.TTL))
	if r.Dead {
		return append(b, 1)
	}
	return append(b, 0)
}

// ParseLease decodes Encode.
func ParseLease(b []byte) (LeaseRecord, error) {
	if len(b) != 17 || b[16] > 1 {
		return LeaseRecord{}, fmt.Errorf("%w: lease record of %#x", ErrMalformed, b)
	}
	return LeaseRecord{
		Grant: int64(binary.BigEndian.Uint64(b)), TTL: int64(binary.BigEndian.Uint64(b[8:])), Dead: b[16] == 1,
	}, nil
}

// LeaseKey names the record of a lease.
func LeaseKey(id int64) []byte { return ofLease(leasePrefix, id) }

// LeaseOf returns the lease of a key of kind Lease, Attached or Held.
func LeaseOf(key []byte) int64 {
	_, rest, _ := bytes.Cut(key, []byte{'/'})
	return int64(binary.BigEndian.Uint64(rest))
}

// LeaseRange is the range that holds the records of all leases.
func LeaseRange() (key, end []byte) { return prefixRange([]byte(leasePrefix)) }

// AttachedKey names the entry that says: key is attached to the lease. It is written and deleted in the same member
// transaction as the key, but for range deletes, which leave it behind: whether the key is attached is for its header to
// say, and only which keys to look at for the entries.
func AttachedKey(id int64, key []byte) []byte { return append(ofLease(attachedPrefix, id), key...) }

// AttachedTo returns the user's key that an entry is of.
func AttachedTo(entry []byte) []byte { return entry[len(attachedPrefix)+8:] }

// AttachedRange is the range that holds the entries of a lease.
func AttachedRange(id int64) (key, end []byte) {
	return prefixRange(ofLease(attachedPrefix, id))
}

// HeldKey names the record by which a transaction that has been prepared, and may still be decided, holds a lease that it
// is going to attach keys to: the lease does not die before the record is gone.
func HeldKey(id int64, txn []byte) []byte { return append(ofLease(heldPrefix, id), txn...) }

// HeldRange is the range that holds everything that holds a lease.
func HeldRange(id int64) (key, end []byte) {
	return prefixRange(ofLease(heldPrefix, id))
}

// AllHeldRange is the range that holds everything that holds any lease.
func AllHeldRange() (key, end []byte) { return prefixRange([]byte(heldPrefix)) }

// HeldBy returns the transaction that a key of kind Held is of.
func HeldBy(key []byte) []byte { return key[len(heldPrefix)+8:] }

func ofLease(prefix string, id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), uint64(id))
}

func prefixRange(prefix []byte) (key, end []byte) { return prefix, keyrange.PrefixEnd(prefix) }
