package manifest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/metaetcd/metaetcd/internal/record"
)

// Version is the first byte of a manifest: that of its encoding.
const Version = 1

// An entry begins with a byte: the kind, and, if there is one name and the entry is no part, its touch above that. Then come
//
//	the stamp, as the difference to that of the entry before
//	of a part: how many members take any; each one's number, and how many it takes; the index
//	unless there is one name: how many names there are
//	the names
//
// and of each name
//
//	its touch, with the flags below, unless it stands in the entry's first byte
//	of a part: its operation, as the difference to that of the name before
//	how many bytes it has in common with the key before, how many follow, and these
//	of a range, the same for its end
//	of a key that is cut, its slot and its hash
//
// Numbers are varints, but for the hash.
const (
	touchShift = 4 // above the kind
	ranged     = 1 << 3
	cut        = 1 << 4
)

// maxParts bounds the parts of a transaction: most have one on a member.
const maxParts = 1 << 16

// Encode encodes entries.
func Encode(entries ...Entry) []byte {
	n := 1
	for i := range entries {
		n += 8
		for j := range entries[i].Names {
			n += 8 + len(entries[i].Names[j].Key) + len(entries[i].Names[j].End)
		}
	}
	e := encoder{b: append(make([]byte, 0, n), Version)}
	for i := range entries {
		e.entry(&entries[i])
	}
	return e.b
}

type encoder struct {
	b     []byte
	stamp int64
	key   []byte
}

func (e *encoder) entry(x *Entry) {
	inline := len(x.Names) == 1 && x.Kind != Parted && len(x.Names[0].End) == 0 && !x.Names[0].Cut
	head := byte(x.Kind)
	if inline {
		head |= byte(x.Names[0].Touch) << touchShift
	}
	e.b = append(e.b, head)
	e.b = binary.AppendVarint(e.b, x.Stamp-e.stamp)
	e.stamp = x.Stamp
	if x.Kind == Parted {
		e.number(len(x.Part.Shares))
		for _, s := range x.Part.Shares {
			e.number(s.Member)
			e.number(s.Parts)
		}
		e.number(x.Part.Index)
	}
	if inline {
		e.text(x.Names[0].Key)
		return
	}
	e.number(len(x.Names))
	op := 0
	for i := range x.Names {
		e.name(&x.Names[i], x.Kind == Parted, &op)
	}
}

func (e *encoder) name(n *Name, part bool, op *int) {
	head := byte(n.Touch)
	if len(n.End) > 0 {
		head |= ranged
	}
	if n.Cut {
		head |= cut
	}
	e.b = append(e.b, head)
	if part {
		e.number(n.Op - *op)
		*op = n.Op
	}
	e.text(n.Key)
	if len(n.End) > 0 {
		e.text(n.End)
	}
	if n.Cut {
		e.number(n.Slot)
		e.b = binary.BigEndian.AppendUint64(e.b, n.Hash)
	}
}

func (e *encoder) number(n int) { e.b = binary.AppendUvarint(e.b, uint64(n)) }

// text encodes a key by what it has in common with the one before.
func (e *encoder) text(key []byte) {
	n := 0
	for n < len(key) && n < len(e.key) && key[n] == e.key[n] {
		n++
	}
	e.number(n)
	e.number(len(key) - n)
	e.b = append(e.b, key[n:]...)
	e.key = key
}

// Decoder decodes the manifests of one member revision. What it returns is good until its next Reset.
type Decoder struct {
	Entries []Entry // of all manifests since Reset, in their order

	names  []Name
	shares []Share
	text   []byte
}

// Reset makes the decoder forget what it has decoded.
func (d *Decoder) Reset() {
	d.Entries, d.names, d.shares, d.text = d.Entries[:0], d.names[:0], d.shares[:0], d.text[:0]
}

// Decode decodes one manifest behind those before. It fails with record.ErrMalformed.
func (d *Decoder) Decode(b []byte) error {
	if len(b) == 0 || b[0] != Version {
		return fmt.Errorf("%w: manifest of %d bytes of another version", record.ErrMalformed, len(b))
	}
	r := reader{b: b[1:], d: d}
	for len(r.b) > 0 && !r.bad {
		x := r.entry()
		if !r.bad {
			d.Entries = append(d.Entries, x)
		}
	}
	if r.bad {
		return fmt.Errorf("%w: manifest of %d bytes, wrong %d before its end", record.ErrMalformed, len(b), len(r.b))
	}
	return nil
}

// Decode decodes one manifest.
func Decode(b []byte) ([]Entry, error) {
	var d Decoder
	err := d.Decode(b)
	return d.Entries, err
}

// reader reads what encoder writes.
type reader struct {
	b     []byte
	d     *Decoder
	stamp int64
	key   []byte
	bad   bool
}

func (r *reader) fail() { r.bad = true }

func (r *reader) entry() (x Entry) {
	head := r.byte()
	x.Kind = Kind(head & (1<<touchShift - 1))
	touch := Touch(head >> touchShift)
	diff, n := binary.Varint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 || x.Kind < Landed || x.Kind > Surrendered || touch > Read {
		r.fail()
		return x
	}
	r.b = r.b[n:]
	x.Stamp = r.stamp + diff
	if r.stamp = x.Stamp; x.Stamp <= 0 || x.Stamp >= record.TooHigh {
		r.fail()
		return x
	}
	if x.Kind == Parted {
		x.Part = r.part()
	}
	start := len(r.d.names)
	if touch != 0 {
		r.d.names = append(r.d.names, Name{Touch: touch, Key: r.text()})
		if x.Kind == Parted {
			r.fail()
		}
	} else {
		op, last := 0, r.number(len(r.b))
		for i := 0; i < last && !r.bad; i++ {
			r.d.names = append(r.d.names, r.name(x.Kind == Parted, &op))
		}
		if last == 1 && x.Kind != Parted && !r.bad {
			if only := &r.d.names[start]; len(only.End) == 0 && !only.Cut {
				r.fail() // it would stand in the first byte
			}
		}
	}
	if len(r.d.names) > start {
		x.Names = r.d.names[start:len(r.d.names):len(r.d.names)]
	}
	return x
}

func (r *reader) part() (p Part) {
	start, of := len(r.d.shares), 0
	for n := r.number(len(r.b)); n > 0 && !r.bad; n-- {
		s := Share{r.number(record.MaxMembers), r.number(maxParts)}
		if of += s.Parts; s.Member == 0 || s.Parts == 0 || of > maxParts {
			r.fail()
		}
		r.d.shares = append(r.d.shares, s)
	}
	p.Shares = r.d.shares[start:len(r.d.shares):len(r.d.shares)]
	if p.Index = r.number(maxParts); p.Index >= of {
		r.fail()
	}
	return p
}

func (r *reader) name(part bool, op *int) (n Name) {
	head := r.byte()
	n.Touch = Touch(head & (ranged - 1))
	if n.Touch < Put || n.Touch > Read || head >= cut<<1 || head&ranged != 0 && head&cut != 0 {
		r.fail()
		return n
	}
	if part {
		*op += r.number(math.MaxInt32)
		if n.Op = *op; n.Op > math.MaxInt32 {
			r.fail()
		}
	}
	n.Key = r.text()
	if head&ranged != 0 {
		if n.End = r.text(); len(n.End) == 0 {
			r.fail()
		}
	}
	if head&cut != 0 {
		n.Cut, n.Slot = true, r.number(math.MaxUint16)
		if len(r.b) < 8 {
			r.fail()
			return n
		}
		n.Hash, r.b = binary.BigEndian.Uint64(r.b), r.b[8:]
	}
	return n
}

func (r *reader) byte() (b byte) {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	b, r.b = r.b[0], r.b[1:]
	return b
}

// number reads a number up to most.
func (r *reader) number(most int) int {
	n, w := binary.Uvarint(r.b)
	if w <= 0 || n > uint64(most) || w > 1 && r.b[w-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[w:]
	return int(n)
}

// text reads a key. Its bytes are the decoder's.
func (r *reader) text() []byte {
	n := r.number(len(r.key))
	more := r.number(len(r.b))
	if r.bad || more > len(r.b) || more > 0 && n < len(r.key) && r.key[n] == r.b[0] {
		r.fail()
		return nil
	}
	start := len(r.d.text)
	r.d.text = append(append(r.d.text, r.key[:n]...), r.b[:more]...)
	r.b = r.b[more:]
	r.key = r.d.text[start:len(r.d.text):len(r.d.text)]
	return r.key
}
