package record

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drawTxnID(t *rapid.T) (id TxnID) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), len(id), len(id)).Draw(t, "id"))
	return id
}

func TestTxnIDsDiffer(t *testing.T) {
	seen := map[TxnID]bool{}
	for range 1000 {
		seen[NewTxnID()] = true
	}
	require.Len(t, seen, 1000)
}

// Decisions have keys of their own in the range that is read at a start.
func TestTxnKeys(t *testing.T) {
	begin, end := TxnRange()
	rapid.Check(t, func(t *rapid.T) {
		id := drawTxnID(t)
		key := TxnKey(id)
		require.Equal(t, Txn, KindOf(key))
		require.False(t, bytes.Compare(key, begin) < 0 || bytes.Compare(key, end) >= 0)
		got, err := TxnOf(key)
		require.NoError(t, err)
		require.Equal(t, id, got)
		for _, bad := range [][]byte{key[:len(key)-1], append(key, 0), begin, nil} {
			_, err = TxnOf(bad)
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
	for _, key := range []string{KeyTopology, KeyFence, KeyLock, KeyClock, KeyCompacted, KeyManifest, string(NestedKey(0)), string(SlotKey(0)), string(LeaseKey(7))} {
		require.False(t, key >= string(begin) && key < string(end), "%q", key)
	}
}

func TestHolderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Holder{ID: drawTxnID(t), Primary: rapid.IntRange(1, MaxMembers).Draw(t, "primary")}
		h.Patience = time.Duration(rapid.IntRange(0, math.MaxUint16).Draw(t, "patience")) * time.Millisecond
		h = h.At(rapid.IntRange(0, math.MaxUint16).Draw(t, "round"))
		v := h.Value()
		got, held, err := ParseHolder(v)
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, h, got)

		require.Positive(t, bytes.Compare(v, Number(math.MaxInt64)), "above every stamp")
		require.GreaterOrEqual(t, bytes.Compare(v, Infinity()), 0, "not below infinity")
		n, err := ParseNumber(v)
		require.NoError(t, err)
		require.EqualValues(t, math.MaxInt64, n)
		for _, cut := range []int{8, len(v) - 1} {
			_, _, err = ParseHolder(v[:cut])
			require.ErrorIs(t, err, ErrMalformed)
		}
		_, _, err = ParseHolder(append(v, 0))
		require.ErrorIs(t, err, ErrMalformed)
		_, _, err = ParseHolder(append(h.At(0).Value(), 0, 0))
		require.ErrorIs(t, err, ErrMalformed, "one holder has one value")
	})
}

func TestHolderBoundsPatience(t *testing.T) {
	h, _, err := ParseHolder(Holder{Primary: 1, Patience: time.Hour}.Value())
	require.NoError(t, err)
	require.Equal(t, math.MaxUint16*time.Millisecond, h.Patience)
}

func TestFreeIsNotHeld(t *testing.T) {
	for _, b := range [][]byte{nil, {}, Number(0), Number(5), Number(math.MaxInt64)} {
		h, held, err := ParseHolder(b)
		require.NoError(t, err)
		require.False(t, held)
		require.Zero(t, h)
	}
}

func drawDecision(t *rapid.T) Decision {
	d := Decision{Stamp: rapid.Int64Range(1, math.MaxInt64-1).Draw(t, "stamp")}
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		txn := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "txn")
		d.Parts = append(d.Parts, DecidedPart{Member: rapid.IntRange(1, MaxMembers).Draw(t, "member"), Txn: txn})
	}
	return d
}

func TestDecisionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDecision(t)
		v := d.Value()
		got, err := ParseDecision(v)
		require.NoError(t, err)
		require.Equal(t, d.Stamp, got.Stamp)
		require.Len(t, got.Parts, len(d.Parts))
		for i, p := range d.Parts {
			require.Equal(t, p.Member, got.Parts[i].Member)
			require.True(t, bytes.Equal(p.Txn, got.Parts[i].Txn))
		}
		cut, err := ParseDecision(v[:rapid.IntRange(0, len(v)-1).Draw(t, "cut")])
		if err == nil { // between two parts
			require.Less(t, len(cut.Parts), len(d.Parts))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}

func TestMalformedDecisions(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"a cut stamp":       Number(5)[:7],
		"stamp 0":           Number(0),
		"an infinite stamp": Infinity(),
		"the highest":       Number(math.MaxInt64),
		"a member alone":    append(Number(5), 1),
		"a cut number":      append(Number(5), 0x80),
		"a cut request":     append(Number(5), 1, 3, 'a', 'b'),
		"no member":         append(Number(5), 0, 0),
		"too high a member": append(Number(5), 0x80, 0x80, 0x04, 0),
		"endless request":   append(Number(5), 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
	} {
		_, err := ParseDecision(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// The bytes are on users' disks: these encodings must be readable for ever.
func TestTxnGolden(t *testing.T) {
	id := TxnID([]byte("0123456789abcdef"))
	require.Equal(t, "\x00~txn/0123456789abcdef", string(TxnKey(id)))
	h := Holder{ID: id, Primary: 0x102, Patience: 0x304 * time.Millisecond}
	require.Equal(t, "\xff\xff\xff\xff\xff\xff\xff\xff0123456789abcdef\x01\x02\x03\x04", string(h.Value()))
	require.Equal(t, "\xff\xff\xff\xff\xff\xff\xff\xff0123456789abcdef\x01\x02\x03\x04\x05\x06", string(h.At(0x506).Value()))
	d := Decision{Stamp: 0x102, Parts: []DecidedPart{{Member: 1, Txn: []byte("xyz")}, {Member: 2}}}
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x01\x02\x01\x03xyz\x02\x00", string(d.Value()))
}

func FuzzParseHolder(f *testing.F) {
	f.Add(Holder{ID: NewTxnID(), Primary: 2, Patience: time.Second}.Value())
	f.Add(Holder{ID: NewTxnID(), Primary: 1, Round: 7}.Value())
	f.Add(Number(9))
	f.Add(Infinity())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, held, err := ParseHolder(b)
		switch {
		case err != nil:
			require.ErrorIs(t, err, ErrMalformed)
			require.False(t, held)
		case held:
			require.Equal(t, b, h.Value())
		default:
			require.Zero(t, h)
		}
	})
}

func FuzzParseDecision(f *testing.F) {
	f.Add(Decision{Stamp: 7, Parts: []DecidedPart{{1, []byte("a")}, {2, nil}}}.Value())
	f.Add(append(Number(7), 0x80))
	f.Add(append(Number(7), 1, 200, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDecision(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.True(t, d.Stamp > 0 && d.Stamp < math.MaxInt64)
		again, err := ParseDecision(d.Value())
		require.NoError(t, err)
		require.Len(t, again.Parts, len(d.Parts))
		for i, p := range d.Parts {
			require.Equal(t, p.Member, again.Parts[i].Member)
			require.True(t, bytes.Equal(p.Txn, again.Parts[i].Txn))
		}
	})
}
