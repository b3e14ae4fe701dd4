package record

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// TxnID names a transaction across members; no two have the same.
type TxnID [16]byte

// NewTxnID returns a new random name.
func NewTxnID() (id TxnID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// TxnKey names the decision of a transaction, on its primary.
func TxnKey(id TxnID) []byte { return append([]byte(txnPrefix), id[:]...) }

// TxnRange is the range that holds all decisions of a member.
func TxnRange() (key, end []byte) { return []byte(txnPrefix), []byte(txnEnd) }

// TxnOf returns the transaction whose decision a key of kind Txn names.
func TxnOf(key []byte) (id TxnID, err error) {
	if len(key) != len(txnPrefix)+len(id) {
		return id, fmt.Errorf("%w: decision %q", ErrMalformed, key)
	}
	copy(id[:], key[len(txnPrefix):])
	return id, nil
}

// Holder is the transaction that has locked a slot, in the place of the slot's clock, or a whole member, in the record
// `lock`. As a slot clock it is infinite, so that the guard of every other write on the slot fails by itself.
type Holder struct {
	ID       TxnID
	Primary  int           // number of the member that the decision is on
	Patience time.Duration // how long its writer should be let alone at least; in milliseconds, up to a minute
	Round    int           // how many of its parts have landed on the member
}

// holderSize is that of a holder in round 0; a later round comes behind.
const holderSize = 8 + len(TxnID{}) + 2 + 2

// At returns the holder when so many parts have landed on the member.
func (h Holder) At(round int) Holder {
	h.Round = round
	return h
}

// Value encodes the holder.
func (h Holder) Value() []byte {
	b := append(make([]byte, 0, holderSize+2), Infinity()...)
	b = append(b, h.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Primary))
	b = binary.BigEndian.AppendUint16(b, uint16(min(h.Patience.Milliseconds(), math.MaxUint16)))
	if h.Round > 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(h.Round))
	}
	return b
}

// ParseHolder decodes a slot's clock or the record `lock`; held is false if nobody has locked it.
func ParseHolder(b []byte) (h Holder, held bool, err error) {
	if len(b) < 8 || binary.BigEndian.Uint64(b) != math.MaxUint64 {
		return Holder{}, false, nil
	}
	if len(b) != holderSize && len(b) != holderSize+2 {
		return Holder{}, false, fmt.Errorf("%w: lock of %d bytes", ErrMalformed, len(b))
	}
	copy(h.ID[:], b[8:])
	b = b[8+len(h.ID):]
	if rest := b[4:]; len(rest) > 0 {
		if h.Round = int(binary.BigEndian.Uint16(rest)); h.Round == 0 {
			return Holder{}, false, fmt.Errorf("%w: lock that tells its first round", ErrMalformed)
		}
	}
	h.Primary = int(binary.BigEndian.Uint16(b))
	h.Patience = time.Duration(binary.BigEndian.Uint16(b[2:])) * time.Millisecond
	return h, true, nil
}

// Decision is what makes a transaction across members sure to happen: it lands on the primary, with the primary's own
// first part, and holds those that members still have to take; each member takes its own in this order.
type Decision struct {
	Stamp int64
	Parts []DecidedPart
}

// DecidedPart is a part as it is to be sent: an etcdserverpb.TxnRequest that takes effect once, however often it is sent.
type DecidedPart struct {
	Member int // its number
	Txn    []byte
}

// Value encodes the decision.
func (d Decision) Value() []byte {
	n := 8
	for _, p := range d.Parts {
		n += 2*binary.MaxVarintLen32 + len(p.Txn)
	}
	b := append(make([]byte, 0, n), Number(d.Stamp)...)
	for _, p := range d.Parts {
		b = binary.AppendUvarint(b, uint64(p.Member))
		b = binary.AppendUvarint(b, uint64(len(p.Txn)))
		b = append(b, p.Txn...)
	}
	return b
}

// ParseDecision decodes a decision. The parts alias b.
func ParseDecision(b []byte) (d Decision, err error) {
	if d.Stamp, err = ParseNumber(b); err != nil {
		return d, err
	}
	if d.Stamp <= 0 || d.Stamp == math.MaxInt64 {
		return d, fmt.Errorf("%w: decision with stamp %d", ErrMalformed, d.Stamp)
	}
	for rest := bytes.NewBuffer(b[8:]); rest.Len() > 0; {
		member, err := binary.ReadUvarint(rest)
		if err != nil || member == 0 || member > MaxMembers {
			return d, fmt.Errorf("%w: decision is cut short", ErrMalformed)
		}
		size, err := binary.ReadUvarint(rest)
		if err != nil || size > uint64(rest.Len()) {
			return d, fmt.Errorf("%w: decision is cut short", ErrMalformed)
		}
		d.Parts = append(d.Parts, DecidedPart{Member: int(member), Txn: rest.Next(int(size))})
	}
	return d, nil
}
