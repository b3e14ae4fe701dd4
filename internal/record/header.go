package record

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Header is what stands in front of a user's value on a member. It carries what etcd's own metadata cannot
// say, because member revisions are the member's and not the meta cluster's.
type Header struct {
	Stamp       int64 // the user's ModRevision
	Create      int64 // the user's CreateRevision; Create <= Stamp
	VersionBase int64 // what is added to the native version; 0 unless the key moved between members
	Lease       int64 // the user's lease; 0: none
}

// TooHigh is above every stamp: a value that begins with text is not taken for one with a header.
const TooHigh = 1 << 61

// MaxHeaderSize bounds the bytes that a header takes.
const MaxHeaderSize = 8 + 3*binary.MaxVarintLen64

// Append encodes h behind dst.
func (h Header) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Stamp))
	dst = binary.AppendUvarint(dst, uint64(h.Stamp-h.Create))
	dst = binary.AppendUvarint(dst, uint64(h.VersionBase))
	return binary.AppendUvarint(dst, uint64(h.Lease))
}

// Value encodes a stored value: the header, then the user's bytes.
func (h Header) Value(user []byte) []byte {
	var buf [MaxHeaderSize]byte
	head := h.Append(buf[:0])
	stored := make([]byte, 0, len(head)+len(user))
	return append(append(stored, head...), user...)
}

// ParseHeader splits a stored value. The user's bytes alias stored.
func ParseHeader(stored []byte) (h Header, user []byte, err error) {
	if len(stored) < 11 {
		return Header{}, nil, fmt.Errorf("%w: value of %d bytes has no header", ErrMalformed, len(stored))
	}
	h.Stamp = int64(binary.BigEndian.Uint64(stored))
	rest := stored[8:]
	var f [3]uint64
	for i := range f {
		n, w := binary.Uvarint(rest)
		if w <= 0 {
			return Header{}, nil, fmt.Errorf("%w: value header is cut short or overlong", ErrMalformed)
		}
		f[i], rest = n, rest[w:]
	}
	h.Create, h.VersionBase, h.Lease = h.Stamp-int64(f[0]), int64(f[1]), int64(f[2])
	if h.Stamp <= 0 || h.Stamp >= TooHigh || f[0] >= uint64(h.Stamp) || h.VersionBase < 0 {
		return Header{}, nil, fmt.Errorf("%w: value header with stamp %d, create stamp %d", ErrMalformed, h.Stamp, h.Create)
	}
	return h, rest, nil
}

// ToUser rewrites a native key-value pair in place into the user's view: stamps as revisions, the value without
// its header. The value keeps aliasing the native bytes.
func ToUser(kv *mvccpb.KeyValue) error {
	h, user, err := ParseHeader(kv.Value)
	if err != nil {
		return fmt.Errorf("key %q: %w", kv.Key, err)
	}
	if len(user) == 0 {
		user = nil
	}
	kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease, kv.Value = h.Stamp, h.Create, kv.Version+h.VersionBase, h.Lease, user
	return nil
}
