package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/record"
)

func slotOf(key []byte) int { return int(xxhash.Sum64(key) % 4096) }

func drawKey(t *rapid.T) []byte {
	stem := rapid.SampledFrom([]string{"", "/registry/pods/default/", "/registry/leases/kube-system/", strings.Repeat("long/", 60)}).Draw(t, "stem")
	return append([]byte(stem), rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "rest")...)
}

func drawName(t *rapid.T, op int) Name {
	n := Name{Touch: Touch(rapid.IntRange(int(Put), int(Read)).Draw(t, "touch")), Op: op, Key: drawKey(t)}
	switch rapid.IntRange(0, 5).Draw(t, "form") {
	case 0:
		n.End = drawKey(t)
	case 1:
		n.End = []byte{0}
	}
	return n.Shorten(MaxName, slotOf)
}

func drawEntry(t *rapid.T) Entry {
	e := Entry{Stamp: rapid.Int64Range(1, record.TooHigh-1).Draw(t, "stamp"), Kind: Kind(rapid.IntRange(int(Landed), int(Surrendered)).Draw(t, "kind"))}
	op := 0
	if e.Kind == Parted {
		for range rapid.IntRange(1, 4).Draw(t, "members") {
			e.Part.Shares = append(e.Part.Shares, Share{rapid.IntRange(1, record.MaxMembers).Draw(t, "member"), rapid.IntRange(1, 5).Draw(t, "parts")})
		}
		e.Part.Index = rapid.IntRange(0, e.Part.Of()-1).Draw(t, "index")
	}
	if e.Kind.Landed() {
		for range rapid.IntRange(0, 4).Draw(t, "names") {
			if e.Kind == Parted {
				op += rapid.IntRange(0, 300).Draw(t, "op")
			}
			e.Names = append(e.Names, drawName(t, op))
		}
	}
	return e
}

// What is encoded is decoded again, by a decoder that has decoded others before, and equal entries have equal bytes.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d Decoder
		for range 2 {
			d.Reset()
			var want []Entry
			for range rapid.IntRange(0, 3).Draw(t, "manifests") {
				entries := rapid.SliceOfN(rapid.Custom(drawEntry), 0, 5).Draw(t, "entries")
				b := Encode(entries...)
				require.NoError(t, d.Decode(b))
				want = append(want, entries...)
				again, err := Decode(b)
				require.NoError(t, err)
				require.Equal(t, b, Encode(again...))
			}
			require.Len(t, d.Entries, len(want))
			for i := range want {
				require.Equal(t, want[i], d.Entries[i])
			}
		}
	})
}

// What is cut short is either refused or has fewer entries.
func TestCutShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(drawEntry), 1, 4).Draw(t, "entries")
		b := Encode(entries...)
		got, err := Decode(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
		if err != nil {
			require.ErrorIs(t, err, record.ErrMalformed)
			return
		}
		require.Less(t, len(got), len(entries))
		for i := range got {
			require.Equal(t, entries[i], got[i])
		}
	})
}

// A name is that of its key or range and of no other key.
func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := Name{Touch: Put, Key: drawKey(t)}
		if rapid.Bool().Draw(t, "range") {
			whole.End = drawKey(t)
		}
		most := rapid.IntRange(0, MaxName).Draw(t, "most")
		n := whole.Shorten(most, slotOf)
		require.LessOrEqual(t, len(n.Key)*min(len(n.End), 1), len(whole.Key))
		key := drawKey(t)
		if rapid.Bool().Draw(t, "the same") {
			key = whole.Key
		}
		want := bytes.Equal(key, whole.Key)
		if len(whole.End) > 0 {
			want = keyrange.Of(whole.Key, whole.End).Contains(key)
			require.Equal(t, whole, n, "ranges stay whole")
		}
		require.Equal(t, want, n.Names(key))
		if n.Cut {
			require.Equal(t, slotOf(whole.Key), n.Slot)
			require.Greater(t, len(whole.Key), most)
			require.Equal(t, whole.Key[:min(most, cutTo)], n.Key)
		}
	})
}

// The names of a transaction take a small part of a request, whatever its keys are.
func TestFit(t *testing.T) {
	var names []Name
	for i := range 3000 {
		names = append(names, Name{Touch: Put, Key: fmt.Appendf(nil, "%0200d", i)})
	}
	few := Fit(slices.Clone(names[:300]), slotOf)
	require.Equal(t, names[:300], few, "those are short enough")
	many := Fit(slices.Clone(names), slotOf)
	for i := range many {
		require.True(t, many[i].Cut)
		require.True(t, many[i].Names(names[i].Key))
	}
	require.Less(t, len(Encode(Entry{Stamp: 1, Kind: Landed, Names: many})), 3000*15)
	long := Fit([]Name{{Touch: Put, Key: bytes.Repeat([]byte("k"), 1<<20)}, {Touch: Deleted, Key: []byte("a")}}, slotOf)
	require.True(t, long[0].Cut)
	require.Equal(t, Name{Touch: Deleted, Key: []byte("a")}, long[1])
	require.Less(t, len(Encode(Entry{Stamp: 1, Kind: Landed, Names: long})), 100)
}

// The bytes are on users' disks: they must be readable for ever.
func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		entries []Entry
		want    string
	}{
		{nil, "\x01"},
		{Of(Surrendered, 300, 301, 299), "\x01\x07\xd8\x04\x00\x07\x02\x00\x07\x03\x00"},
		{
			[]Entry{
				{Stamp: 5, Kind: Landed, Names: []Name{{Touch: Put, Key: []byte("/a/x1")}}},
				{Stamp: 6, Kind: Landed, Names: []Name{{Touch: Deleted, Key: []byte("/a/x22")}}},
				{Stamp: 7, Kind: Landed, Names: []Name{{Touch: Put, Key: []byte("/b")}, {Touch: Compared, Key: []byte("/a")}}},
			}, "\x01\x11\x0a\x00\x05/a/x1\x21\x02\x04\x0222\x01\x02\x02\x01\x01\x01b\x03\x01\x01a",
		},
		{
			[]Entry{{
				Stamp: 9, Kind: Parted, Part: Part{Index: 2, Shares: []Share{{3, 1}, {7, 2}}},
				Names: []Name{{Touch: Deleted, Op: 4, Key: []byte("a"), End: []byte("b")}, {Touch: Put, Op: 6, Key: []byte("a")}},
			}}, "\x01\x03\x12\x02\x03\x01\x07\x02\x02\x02\x0a\x04\x00\x01a\x00\x01b\x01\x02\x00\x01a",
		},
		{
			[]Entry{{Stamp: 1, Kind: Landed, Names: []Name{{Touch: Put, Key: bytes.Repeat([]byte("k"), cutTo), Cut: true, Slot: 300, Hash: 0x0102030405060708}}}},
			"\x01\x01\x02\x01\x11\x00\x20" + strings.Repeat("k", cutTo) + "\xac\x02\x01\x02\x03\x04\x05\x06\x07\x08",
		},
	} {
		require.Equal(t, tt.want, string(Encode(tt.entries...)))
		got, err := Decode([]byte(tt.want))
		require.NoError(t, err)
		require.Len(t, got, len(tt.entries))
	}
}

func TestMalformed(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":               "",
		"another version":       "\x02",
		"no kind":               "\x01\x00\x02\x00",
		"an unknown kind":       "\x01\x08\x02\x00",
		"an unknown touch":      "\x01\x51\x02\x00\x01a",
		"stamp 0":               "\x01\x07\x00\x00",
		"a stamp below":         "\x01\x07\x01\x00",
		"no names":              "\x01\x07\x02",
		"a name that is cut":    "\x01\x11\x02\x00\x05abc",
		"too much in common":    "\x01\x11\x02\x01\x01a",
		"too little in common":  "\x01\x11\x02\x00\x01a\x11\x02\x00\x02ab",
		"an overlong number":    "\x01\x11\x02\x80\x00\x01a",
		"an overlong stamp":     "\x01\x07\x82\x00\x00",
		"a part of nothing":     "\x01\x03\x02\x00\x00\x00",
		"a part behind the end": "\x01\x03\x02\x01\x01\x01\x01\x00",
		"a part of no member":   "\x01\x03\x02\x01\x00\x01\x00\x00",
		"a share without parts": "\x01\x03\x02\x02\x01\x01\x02\x00\x00\x00",
		"one name by itself":    "\x01\x01\x02\x01\x01\x00\x01a",
		"an empty range":        "\x01\x01\x02\x01\x09\x00\x01a\x01\x00"[:8] + "\x00\x00",
		"no hash":               "\x01\x01\x02\x01\x11\x00\x01a\x05\x01\x02\x03",
	} {
		_, err := Decode([]byte(b))
		require.ErrorIs(t, err, record.ErrMalformed, name)
	}
}

func TestKinds(t *testing.T) {
	for kind, landed := range map[Kind]bool{Landed: true, Exclusive: true, Parted: true, Taken: true, Fenced: false, Pinned: false, Surrendered: false, 0: false, 8: false} {
		require.Equal(t, landed, kind.Landed(), kind)
		require.NotEmpty(t, kind.String())
	}
	require.Equal(t, int64(9), Highest(append(Of(Landed, 3, 9), Of(Fenced, 4)...)))
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(Of(Surrendered, 300, 301, 299)...))
	f.Add(Encode(Entry{Stamp: 5, Kind: Landed, Names: []Name{{Touch: Put, Key: []byte("/a/x1")}, {Touch: Deleted, Key: []byte("/a"), End: []byte("/b")}}}))
	f.Add(Encode(Entry{Stamp: 9, Kind: Parted, Part: Part{Index: 1, Shares: []Share{{3, 2}}}, Names: []Name{{Touch: Put, Op: 4, Key: []byte("a")}}}))
	f.Add(Encode(Entry{Stamp: 9, Kind: Landed, Names: []Name{Name{Touch: Put, Key: bytes.Repeat([]byte("k"), 300)}.Shorten(0, slotOf)}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Decode(b)
		if err != nil {
			require.ErrorIs(t, err, record.ErrMalformed)
			return
		}
		for i := range got {
			require.Positive(t, got[i].Stamp)
			require.Less(t, got[i].Part.Index, max(got[i].Part.Of(), 1))
		}
		require.Equal(t, b, Encode(got...), "one encoding")
	})
}

// BenchmarkEncode shows what an operation takes in a manifest: bytes/op.
func BenchmarkEncode(b *testing.B) {
	entries := make([]Entry, 32)
	for i := range entries {
		entries[i] = Entry{Stamp: 1_000_000 + int64(i), Kind: Landed, Names: []Name{{Touch: Put, Key: fmt.Appendf(nil, "/registry/pods/default/pod-%08x", uint32(i)*2654435761)}}}
	}
	var n int
	for b.Loop() {
		n = len(Encode(entries...))
	}
	b.ReportMetric(float64(n)/float64(len(entries)), "bytes/operation")
}

func BenchmarkDecode(b *testing.B) {
	entries := make([]Entry, 32)
	for i := range entries {
		entries[i] = Entry{Stamp: 1_000_000 + int64(i), Kind: Landed, Names: []Name{{Touch: Put, Key: fmt.Appendf(nil, "/registry/pods/default/pod-%08x", uint32(i)*2654435761)}}}
	}
	encoded := Encode(entries...)
	var d Decoder
	b.ReportAllocs()
	for b.Loop() {
		d.Reset()
		if err := d.Decode(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
