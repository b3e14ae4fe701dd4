package record

import (
	"bytes"
	"cmp"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestKindOf(t *testing.T) {
	for key, want := range map[string]Kind{
		"":                     User,
		"\x01":                 User,
		"a":                    User,
		"topology":             User,
		"a\x00":                User,
		"\xff":                 User,
		KeyTopology:            Topology,
		KeyFence:               Fence,
		KeyLock:                Lock,
		KeyClock:               Clock,
		KeyCompacted:           Compacted,
		string(SlotKey(0)):     Slot,
		string(SlotKey(500)):   Slot,
		KeyManifest:            Manifest,
		string(NestedKey(0)):   Nested,
		string(NestedKey(500)): Nested,
		string(LeaseKey(7)):    Lease,
		"\x00~txn/7":           Txn,

		"\x00":                              Unknown,
		"\x00\x00":                          Unknown,
		"\x00topologyx":                     Unknown,
		"\x00fenc":                          Unknown,
		"\x00slot/":                         Unknown,
		"\x00slot/1":                        Unknown,
		"\x00slot/123":                      Unknown,
		"\x00m/":                            Unknown,
		"\x00m/123":                         Unknown,
		"\x00manifest/":                     Unknown,
		"\x00lease/":                        Unknown,
		"\x00lease/1234567":                 Unknown,
		"\x00~attached/1234567k":            Unknown,
		string(AttachedKey(7, nil)):         Unknown,
		string(AttachedKey(7, []byte("k"))): Attached,
		string(HeldKey(7, nil)):             Unknown,
		string(HeldKey(7, []byte("t"))):     Held,
		"\x00~txn/":                         Unknown,
		"\x00from/tomorrow":                 Unknown,
	} {
		require.Equal(t, want, KindOf([]byte(key)), "%q", key)
	}
	user, slot := []byte("a"), SlotKey(1)
	require.Zero(t, testing.AllocsPerRun(100, func() { KindOf(user); KindOf(slot) }))
}

func TestKeysAreReserved(t *testing.T) {
	begin, end := SlotRange()
	for _, key := range [][]byte{
		[]byte(KeyTopology), []byte(KeyFence), []byte(KeyLock), []byte(KeyClock), []byte(KeyCompacted),
		[]byte(KeyManifest), SlotKey(0), SlotKey(math.MaxUint16), NestedKey(0), NestedKey(math.MaxUint16), begin, end,
	} {
		require.Equal(t, byte(Reserved), key[0], "%q", key)
		require.Negative(t, bytes.Compare(key, []byte(FirstUserKey)), "%q", key)
	}
}

// The slot range holds the clocks of all slots, in order, and no other record.
func TestSlotKeys(t *testing.T) {
	begin, end := SlotRange()
	last := begin
	for slot := range 1 << 16 {
		key := SlotKey(slot)
		require.Equal(t, slot, SlotOf(key))
		require.Negative(t, bytes.Compare(last, key))
		last = key
	}
	require.Negative(t, bytes.Compare(last, end))
	for _, key := range []string{KeyTopology, KeyFence, KeyLock, KeyClock, KeyCompacted, KeyManifest, string(NestedKey(0)), string(LeaseKey(7)), string(TxnKey(TxnID{7}))} {
		require.False(t, key >= string(begin) && key < string(end), "%q", key)
	}
}

func TestNestedKeysAreDistinct(t *testing.T) {
	seen := make(map[string]bool)
	begin, end := NestedRange()
	for i := range 1 << 16 {
		key := string(NestedKey(i))
		seen[key] = true
		require.True(t, key >= string(begin) && key < string(end))
	}
	require.Len(t, seen, 1<<16)
	require.False(t, KeyManifest >= string(begin) && KeyManifest < string(end))
}

// What everybody follows sorts in front of what only some need, and both in front of users' keys.
func TestFollowed(t *testing.T) {
	for _, key := range []string{
		KeyTopology, KeyFence, KeyLock, KeyCompacted, KeyManifest, string(SlotKey(math.MaxUint16)), string(NestedKey(math.MaxUint16)), string(LeaseKey(-1)),
	} {
		require.True(t, Followed([]byte(key)), "%q", key)
		require.Less(t, key, Unfollowed)
	}
	for _, key := range []string{KeyClock, string(TxnKey(TxnID{1})), string(AttachedKey(7, []byte("k"))), string(HeldKey(7, []byte("t")))} {
		require.False(t, Followed([]byte(key)), "%q", key)
		require.Greater(t, key, Unfollowed)
		require.Less(t, key, FirstUserKey)
	}
	for _, key := range []string{"", FirstUserKey, "a"} {
		require.False(t, Followed([]byte(key)), "%q", key)
	}
}

// The bytes are on users' disks: these encodings must be readable for ever.
func TestRecordGolden(t *testing.T) {
	require.Equal(t, "\x00slot/\x01\x02", string(SlotKey(0x102)))
	require.Equal(t, "\x00m/\x01\x02", string(NestedKey(0x102)))
	require.Equal(t, "\x00manifest", KeyManifest)
	require.Equal(t, "\x00~clock", KeyClock)
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x01\x02", string(Number(0x102)))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02", string(Pair(3, 0x102)))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x01\x01",
		string(ClockRecord{Epoch: 3, Highest: 0x102, Closed: 0x101}.Value()))
}

func TestNumberRoundTripAndOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Just(int64(0)), drawStamp())
		a, b := n.Draw(t, "a"), n.Draw(t, "b")
		require.Equal(t, cmp.Compare(a, b), bytes.Compare(Number(a), Number(b)))
		require.Negative(t, bytes.Compare(Number(a), Infinity()))

		got, err := ParseNumber(append(Number(a), drawBytes().Draw(t, "behind")...))
		require.NoError(t, err)
		require.Equal(t, a, got)
	})
}

func TestParseNumber(t *testing.T) {
	n, err := ParseNumber(append(Infinity(), "id and primary"...))
	require.NoError(t, err)
	require.Equal(t, int64(math.MaxInt64), n, "a locked slot is above every stamp")

	n, err = ParseNumber([]byte{0x80, 0, 0, 0, 0, 0, 0, 0})
	require.NoError(t, err)
	require.Equal(t, int64(math.MaxInt64), n, "no number is read as negative")

	_, err = ParseNumber(make([]byte, 7))
	require.ErrorIs(t, err, ErrMalformed)
}

// Fences and clocks are compared by etcd as bytes: by epoch first, then by number.
func TestPairRoundTripAndOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64Range(0, 3), drawStamp())
		epoch, f := n.Draw(t, "epoch"), n.Draw(t, "number")
		epoch2, f2 := n.Draw(t, "other epoch"), n.Draw(t, "other number")
		want := cmp.Or(cmp.Compare(epoch, epoch2), cmp.Compare(f, f2))
		require.Equal(t, want, bytes.Compare(Pair(epoch, f), Pair(epoch2, f2)))

		gotEpoch, gotF, err := ParsePair(Pair(epoch, f))
		require.NoError(t, err)
		require.Equal(t, [2]int64{epoch, f}, [2]int64{gotEpoch, gotF})
	})
}

// A clock is ordered by its epoch, then by its highest stamp, and its first 16 bytes are those of a pair.
func TestClockRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() ClockRecord {
			small := rapid.Int64Range(0, 3)
			return ClockRecord{small.Draw(t, "epoch"), small.Draw(t, "highest"), rapid.Int64Range(0, math.MaxInt64).Draw(t, "closed")}
		}
		a, b := draw(), draw()
		got, err := ParseClock(a.Value())
		require.NoError(t, err)
		require.Equal(t, a, got)
		require.Equal(t, Pair(a.Epoch, a.Highest), a.Value()[:16])
		if order := cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Highest, b.Highest)); order != 0 {
			require.Equal(t, order, bytes.Compare(a.Value(), b.Value()))
		}
	})
}

func TestParsersRefuse(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"a pair":             Pair(1, 2),
		"a byte more":        append(ClockRecord{1, 2, 3}.Value(), 0),
		"an infinite epoch":  append(Infinity(), Pair(1, 2)...),
		"an infinite stamp":  append(append(Number(1), Infinity()...), Number(1)...),
		"an infinite closed": append(Pair(1, 2), Infinity()...),
	} {
		_, err := ParseClock(b)
		require.ErrorIs(t, err, ErrMalformed, "clock: %s", name)
	}
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"fifteen bytes":      Pair(1, 2)[:15],
		"seventeen bytes":    append(Pair(1, 2), 0),
		"an infinite epoch":  append(Infinity(), Number(1)...),
		"an infinite number": append(Number(1), Infinity()...),
	} {
		_, _, err := ParsePair(b)
		require.ErrorIs(t, err, ErrMalformed, "pair: %s", name)
	}
}

func FuzzParsePair(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Pair(0, 0))
	f.Add(Pair(3, 1<<40))
	f.Add(append(Infinity(), Infinity()...))
	f.Add(append(Pair(1, 2), 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		epoch, n, err := ParsePair(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.GreaterOrEqual(t, epoch, int64(0))
		require.GreaterOrEqual(t, n, int64(0))
		require.Equal(t, b, Pair(epoch, n))
	})
}
