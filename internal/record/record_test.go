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
		"":                   User,
		"\x01":               User,
		"a":                  User,
		"topology":           User,
		"a\x00":              User,
		"\xff":               User,
		KeyTopology:          Topology,
		KeyFence:             Fence,
		KeyLock:              Lock,
		KeyClock:             Clock,
		KeyCompacted:         Compacted,
		string(SlotKey(0)):   Slot,
		string(SlotKey(500)): Slot,
		string(MarkKey(0)):   Mark,
		string(MarkKey(500)): Mark,
		string(LeaseKey(7)):  Lease,
		"\x00txn/7":          Txn,

		"\x00":                              Unknown,
		"\x00\x00":                          Unknown,
		"\x00topologyx":                     Unknown,
		"\x00fenc":                          Unknown,
		"\x00slot/":                         Unknown,
		"\x00slot/1":                        Unknown,
		"\x00slot/123":                      Unknown,
		"\x00mark/":                         Unknown,
		"\x00mark/123":                      Unknown,
		"\x00lease/":                        Unknown,
		"\x00lease/1234567":                 Unknown,
		"\x00attached/1234567k":             Unknown,
		string(AttachedKey(7, nil)):         Unknown,
		string(AttachedKey(7, []byte("k"))): Attached,
		string(HeldKey(7, nil)):             Unknown,
		string(HeldKey(7, []byte("t"))):     Held,
		"\x00txn/":                          Unknown,
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
		SlotKey(0), SlotKey(math.MaxUint16), MarkKey(0), MarkKey(math.MaxUint16), begin, end,
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
	for _, key := range []string{KeyTopology, KeyFence, KeyLock, KeyClock, KeyCompacted, string(MarkKey(0)), "\x00lease/7", "\x00txn/7"} {
		require.False(t, key >= string(begin) && key < string(end), "%q", key)
	}
}

func TestMarkKeysAreDistinct(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 1 << 16 {
		seen[string(MarkKey(i))] = true
	}
	require.Len(t, seen, 1<<16)
}

// The bytes are on users' disks: these encodings must be readable for ever.
func TestRecordGolden(t *testing.T) {
	require.Equal(t, "\x00slot/\x01\x02", string(SlotKey(0x102)))
	require.Equal(t, "\x00mark/\x01\x02", string(MarkKey(0x102)))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x01\x02", string(Number(0x102)))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02", string(Pair(3, 0x102)))
	require.Equal(t, "\x00\x00\x00\x00\x00\x00\x01\x02\x04", string(MarkValue(0x102, Surrendered)))
	require.Equal(t, []Reason{1, 2, 3, 4, 5}, []Reason{Fenced, SlotAhead, NoOp, Surrendered, Exclusive})
}

func TestReasonNames(t *testing.T) {
	for why, want := range map[Reason]string{
		Fenced: "fenced", SlotAhead: "pin", NoOp: "noop", Surrendered: "surrendered", Exclusive: "exclusive", 77: "reason-77",
	} {
		require.Equal(t, want, why.String())
	}
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

func TestMarkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stamp, why := drawStamp().Draw(t, "stamp"), Reason(rapid.ByteMin(1).Draw(t, "why"))
		gotStamp, gotWhy, err := ParseMark(append(MarkValue(stamp, why), drawBytes().Draw(t, "behind")...))
		require.NoError(t, err)
		require.Equal(t, stamp, gotStamp)
		require.Equal(t, why, gotWhy)
	})
}

func TestParsersRefuse(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"eight bytes":      Number(5),
		"no stamp":         MarkValue(0, NoOp),
		"no reason":        MarkValue(5, 0),
		"an infinite mark": append(Infinity(), byte(NoOp)),
	} {
		_, _, err := ParseMark(b)
		require.ErrorIs(t, err, ErrMalformed, "mark: %s", name)
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

func FuzzParseMark(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Number(5))
	f.Add(MarkValue(5, NoOp))
	f.Add(MarkValue(math.MaxInt64, Exclusive))
	f.Add(append(MarkValue(5, Fenced), "more"...))
	f.Add(append(Infinity(), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		stamp, why, err := ParseMark(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.Positive(t, stamp)
		require.Equal(t, b[:9], MarkValue(stamp, why))
	})
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

func TestMarksValueHoldsEveryStamp(t *testing.T) {
	for _, why := range []Reason{Fenced, SlotAhead, Surrendered} {
		stamps := []int64{5, 7, math.MaxInt64 - 1}
		b := MarksValue(stamps, why)
		first, got, err := ParseMark(b)
		require.NoError(t, err)
		require.Equal(t, why, got)
		all := []int64{first}
		rest, err := FurtherStamps(b, got)
		require.NoError(t, err)
		for ; len(rest) > 0; rest = rest[8:] {
			n, err := ParseNumber(rest[:8])
			require.NoError(t, err)
			all = append(all, n)
		}
		require.Equal(t, stamps, all)
		require.Equal(t, MarkValue(5, why), MarksValue(stamps[:1], why))

		_, err = FurtherStamps(b[:len(b)-1], why)
		require.ErrorIs(t, err, ErrMalformed)
	}
	rest, err := FurtherStamps(append(MarkValue(5, Exclusive), "more"...), Exclusive)
	require.NoError(t, err)
	require.Empty(t, rest, "what later versions put behind other reasons is not stamps")
}
