package record

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestLeaseGolden(t *testing.T) {
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x12\x34\x00\x00\x00\x00\x00\x00\x00\x3c\x00", string(LeaseRecord{Grant: 0x1234, TTL: 60}.Encode()))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x12\x34\x00\x00\x00\x00\x00\x00\x00\x3c\x01", string(LeaseRecord{Grant: 0x1234, TTL: 60, Dead: true}.Encode()))
	require.Equal(t, "\x00lease/\x00\x00\x00\x00\x00\x00\x01\x02", string(LeaseKey(0x102)))
	require.Equal(t, "\x00~attached/\x00\x00\x00\x00\x00\x00\x01\x02/a", string(AttachedKey(0x102, []byte("/a"))))
	require.Equal(t, "\x00~held/\x00\x00\x00\x00\x00\x00\x01\x02t", string(HeldKey(0x102, []byte("t"))))
}

func TestLeaseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := LeaseRecord{Grant: rapid.Int64().Draw(t, "grant"), TTL: rapid.Int64().Draw(t, "ttl"), Dead: rapid.Bool().Draw(t, "dead")}
		got, err := ParseLease(want.Encode())
		require.NoError(t, err)
		require.Equal(t, want, got)

		id, key := rapid.Int64().Draw(t, "id"), rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "key")
		entry := AttachedKey(id, key)
		require.Equal(t, key, AttachedTo(entry))
		for _, k := range [][]byte{LeaseKey(id), entry, HeldKey(id, key)} {
			require.Equal(t, id, LeaseOf(k))
		}
	})
}

func TestParseLeaseErrors(t *testing.T) {
	good := LeaseRecord{Grant: 1, TTL: 2}.Encode()
	for _, bad := range [][]byte{nil, good[:16], append(bytes.Clone(good), 0), append(bytes.Clone(good[:16]), 2)} {
		_, err := ParseLease(bad)
		require.ErrorIs(t, err, ErrMalformed)
	}
}

// TestLeaseRanges: each range holds what is the lease's, and nothing of its neighbours.
func TestLeaseRanges(t *testing.T) {
	in := func(k, key, end []byte) bool { return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0 }
	for _, id := range []int64{1, 0xff, 0x1ff, math.MaxInt64, math.MinInt64, -1} {
		key, end := AttachedRange(id)
		require.True(t, in(AttachedKey(id, []byte{0}), key, end), id)
		require.True(t, in(AttachedKey(id, []byte("\xff\xff")), key, end), id)
		require.False(t, in(AttachedKey(id+1, []byte{1}), key, end), id)
		require.False(t, in(AttachedKey(id-1, []byte{1}), key, end), id)
		key, end = HeldRange(id)
		require.True(t, in(HeldKey(id, []byte("t")), key, end), id)
		require.False(t, in(HeldKey(id+1, []byte("t")), key, end), id)
		key, end = LeaseRange()
		require.True(t, in(LeaseKey(id), key, end), id)
		require.False(t, in(AttachedKey(id, []byte{1}), key, end), id)
	}
}
