package record

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// drawStamp prefers the numbers at which encodings change their length, and small ones.
func drawStamp() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Int64Range(1, 300),
		rapid.Int64Range(1, TooHigh-1),
		rapid.SampledFrom([]int64{1, 127, 128, 255, 256, 1<<14 - 1, 1 << 14, 1<<32 - 1, 1 << 32, TooHigh - 2, TooHigh - 1}),
	)
}

func drawHeader() *rapid.Generator[Header] {
	return rapid.Custom(func(t *rapid.T) Header {
		stamp := drawStamp().Draw(t, "stamp")
		return Header{
			Stamp:       stamp,
			Create:      rapid.Int64Range(1, stamp).Draw(t, "create"),
			VersionBase: rapid.Int64Range(0, math.MaxInt64).Draw(t, "version base"),
			Lease:       rapid.Int64().Draw(t, "lease"),
		}
	})
}

func drawBytes() *rapid.Generator[[]byte] { return rapid.SliceOf(rapid.Byte()) }

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, user := drawHeader().Draw(t, "header"), drawBytes().Draw(t, "user")
		stored := h.Value(user)
		require.LessOrEqual(t, len(stored)-len(user), MaxHeaderSize)
		require.Equal(t, stored, append(h.Append(nil), user...))

		got, rest, err := ParseHeader(stored)
		require.NoError(t, err)
		require.Equal(t, h, got)
		require.Equal(t, string(user), string(rest))
	})
}

// The bytes are on users' disks: this encoding must be readable for ever.
func TestHeaderGolden(t *testing.T) {
	for _, tt := range []struct {
		h    Header
		want string
	}{
		{Header{Stamp: 2, Create: 2}, "\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00v"},
		{Header{Stamp: 0x1234, Create: 0x1234 - 300, VersionBase: 5, Lease: 128}, "\x00\x00\x00\x00\x00\x00\x12\x34\xac\x02\x05\x80\x01v"},
	} {
		require.Equal(t, tt.want, string(tt.h.Value([]byte("v"))))
	}
	require.Len(t, Header{Stamp: math.MaxInt64, Create: 1, VersionBase: math.MaxInt64, Lease: -1}.Append(nil), 8+9+9+10)
}

// Etcd's Value compare is bytes.Compare: it must order stored values as their stamps are ordered.
func TestStoredValuesAreOrderedByStamp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHeader().Draw(t, "header")
		x := rapid.OneOf(drawStamp(), rapid.Just(h.Stamp), rapid.Just(max(h.Stamp-1, 0)), rapid.Just(h.Stamp)).Draw(t, "x")
		value := h.Value(drawBytes().Draw(t, "user"))
		require.Equal(t, h.Stamp >= x, bytes.Compare(value, Number(x)) > 0, "value > be(%d)", x)
		require.Equal(t, h.Stamp < x, bytes.Compare(value, Number(x)) < 0, "value < be(%d)", x)
		require.Negative(t, bytes.Compare(value, Infinity()))
	})
}

func TestParseHeaderRefuses(t *testing.T) {
	good := Header{Stamp: 9, Create: 9}.Value(nil)
	number := func(fields ...uint64) []byte {
		b := Number(9)
		for _, f := range fields {
			b = binary.AppendUvarint(b, f)
		}
		return append(b, "padding"...)
	}
	for name, stored := range map[string][]byte{
		"nothing":                  nil,
		"ten bytes":                good[:10],
		"no stamp":                 make([]byte, 20),
		"a stamp above int64":      append(Infinity(), 0, 0, 0),
		"created before the clock": number(9, 0, 0),
		"created after its stamp":  number(math.MaxUint64, 0, 0),
		"a negative version base":  number(0, 1<<63, 0),
		"an unfinished number":     append(Number(9), 0, 0, 0x80),
		"an overlong number":       append(Number(9), bytes.Repeat([]byte{0xff}, 30)...),
	} {
		h, user, err := ParseHeader(stored)
		require.ErrorIs(t, err, ErrMalformed, name)
		require.Zero(t, h, name)
		require.Nil(t, user, name)
	}
}

func TestValueAllocatesOnce(t *testing.T) {
	user := make([]byte, 256)
	for _, h := range []Header{{Stamp: 2, Create: 2}, {Stamp: math.MaxInt64, Create: 1, VersionBase: math.MaxInt64, Lease: -1}} {
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { sink = h.Value(user) }), 1.0)
	}
	stored := Header{Stamp: 7, Create: 3, Lease: math.MaxInt64}.Value(user)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, sink, _ = ParseHeader(stored) }))
}

var sink []byte

func TestToUser(t *testing.T) {
	h := Header{Stamp: 70, Create: 50, VersionBase: 3, Lease: 1234}
	for _, tt := range []struct {
		name, user string
		want       []byte
	}{
		{"value", "v", []byte("v")},
		{"empty value", "", nil}, // as etcd's own answers have it
	} {
		t.Run(tt.name, func(t *testing.T) {
			kv := &mvccpb.KeyValue{
				Key: []byte("k"), Value: h.Value([]byte(tt.user)), CreateRevision: 5, ModRevision: 6, Version: 2, Lease: 99,
			}
			require.NoError(t, ToUser(kv))
			want := &mvccpb.KeyValue{Key: []byte("k"), Value: tt.want, CreateRevision: 50, ModRevision: 70, Version: 5, Lease: 1234}
			require.True(t, proto.Equal(want, kv), "%v", kv)
			require.Equal(t, tt.want, kv.Value)
		})
	}
}

func TestToUserLeavesForeignValuesAlone(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("foreign"), CreateRevision: 5, ModRevision: 6, Version: 2}
	before := proto.Clone(kv)
	err := ToUser(kv)
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, `key "k"`)
	require.True(t, proto.Equal(before, kv))
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(make([]byte, 11))
	f.Add(Infinity())
	f.Add(Header{Stamp: 2, Create: 2}.Value(nil))
	f.Add(Header{Stamp: 1 << 40, Create: 7, VersionBase: 300, Lease: -1}.Value([]byte("value")))
	f.Add(append(Number(9), 0x80, 0x00, 0x00, 0x00)) // not the shortest form of zero
	f.Fuzz(func(t *testing.T, stored []byte) {
		h, user, err := ParseHeader(stored)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.Positive(t, h.Create)
		require.LessOrEqual(t, h.Create, h.Stamp)
		require.GreaterOrEqual(t, h.VersionBase, int64(0))
		require.True(t, bytes.HasSuffix(stored, user))

		again, rest, err := ParseHeader(h.Value(user))
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.Equal(t, string(user), string(rest))
	})
}

// TestTextIsNoHeader: what somebody else writes to a member is mostly text.
func TestTextIsNoHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~].{0,40}`).Draw(t, "text")
		_, _, err := ParseHeader([]byte(text))
		require.ErrorIs(t, err, ErrMalformed)
	})
}
