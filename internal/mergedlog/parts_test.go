package mergedlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// partRec is the manifest of a part whose events are of these operations.
func partRec(stamp int64, of, index int, ops ...int) *mvccpb.Event {
	e := manifest.Entry{Stamp: stamp, Kind: manifest.Parted, Part: manifest.Part{Index: index, Shares: []manifest.Share{{Member: 1, Parts: of}}}}
	for _, op := range ops {
		e.Names = append(e.Names, manifest.Name{Touch: manifest.Put, Op: op})
	}
	return rec([]byte(record.KeyManifest), manifest.Encode(e))
}

func lockRec(slot int, h record.Holder) *mvccpb.Event {
	if slot == Whole {
		return rec([]byte(record.KeyLock), h.Value())
	}
	return rec(record.SlotKey(slot), h.Value())
}

func keysSince(t *testing.T, l *Log, from int64) (keys []string) {
	t.Helper()
	evs, _, err := l.Since(from, 0)
	require.NoError(t, err)
	for _, e := range evs {
		keys = append(keys, string(e.Kv.Key))
	}
	return keys
}

// A transaction across members is released whole, in the order of its operations, whatever part comes last and however
// high the fences are.
func TestPartsAreReleasedTogether(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}} {
		l := testLog(t, 3)
		parts := [][]MemberRevision{ // a log rewrites what it gets
			at(11, put("b", 11, 11, 6), put("e", 11, 11, 6), partRec(6, 3, 0, 1, 4)),
			at(11, put("d", 11, 11, 6), put("a", 11, 11, 6), partRec(6, 3, 1, 0, 9)),
			at(11, partRec(6, 3, 2)),
		}
		for n, i := range order {
			require.Equal(t, int64(5), l.Closed(), "%d parts of 3", n)
			require.NoError(t, l.Append(i, parts[i]))
			require.NoError(t, l.Append(i, at(12, fenceRec(1, 20))))
		}
		require.Equal(t, int64(20), l.Closed())
		require.Equal(t, []string{"d", "b", "e", "a"}, keysSince(t, l, 6))
	}
}

// What is closed below a partial transaction is not held up, what is above is.
func TestAPartialStampHoldsUpWhatIsAbove(t *testing.T) {
	l := testLog(t, 2)
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 8), partRec(8, 2, 0, 0))))
	require.NoError(t, l.Append(0, at(12, put("b", 12, 12, 9), fenceRec(1, 30))))
	missing, known, blocked := l.Gap()
	require.Equal(t, []int64{6, 9}, []int64{missing, known})
	require.True(t, blocked)
	require.NoError(t, l.Append(1, at(11, fenceRec(1, 30))))
	require.Equal(t, int64(7), l.Closed(), "the fences close all but what is known to have parts")
	missing, _, _ = l.Gap()
	require.Zero(t, missing, "no fence would help")
	_, err := l.Snapshot(8, []int{0}, []byte("a"), nil)
	require.ErrorIs(t, err, ErrNotClosed)
	snaps, err := l.Snapshot(7, []int{0}, []byte("a"), nil)
	require.NoError(t, err)
	require.Equal(t, []MemberSnapshot{{Lo: 10}}, snaps, "its first part is not in the snapshot below it")

	require.NoError(t, l.Append(1, at(12, put("c", 12, 12, 8), partRec(8, 2, 1, 1))), "a part lands below the fence")
	require.Equal(t, int64(30), l.Closed())
	require.Equal(t, []string{"a", "c", "b"}, keysSince(t, l, 6))
}

// A writer that gives back a slot restores its clock: the stamp of a transaction whose other parts are still to come.
func TestARestoredClockClosesNothing(t *testing.T) {
	l := testLog(t, 2)
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 6), slotRec(6), partRec(6, 2, 0, 0))))
	require.NoError(t, l.Append(0, at(12, lockRec(0, record.Holder{ID: record.NewTxnID()}))))
	require.NoError(t, l.Append(0, at(13, slotRec(6))))
	require.NoError(t, l.Append(1, at(11, fenceRec(1, 7))))
	require.NoError(t, l.Append(0, at(14, fenceRec(1, 7))))
	require.Equal(t, int64(5), l.Closed())
	require.NoError(t, l.Append(1, at(12, put("b", 12, 12, 6), partRec(6, 2, 1, 1))))
	require.Equal(t, int64(7), l.Closed())
	require.Equal(t, []string{"a", "b"}, keysSince(t, l, 6))
	require.NoError(t, l.Append(0, at(15, lockRec(0, record.Holder{}))))
	require.NoError(t, l.Append(0, at(16, slotRec(6))), "nor is it late when it is closed")
	require.Equal(t, []string{"a", "b"}, keysSince(t, l, 6))
}

// A process that starts has every part of what is at or below its beginning behind it, seen or not.
func TestStartForgetsPartials(t *testing.T) {
	l := New(Config{Members: 2, SlotOf: func([]byte) int { return 0 }})
	l.Open(0, begin)
	l.Open(1, MemberState{Rev: 10, Epoch: 1, Fence: 5, Clock: 7})
	// Of 7, the other part landed before the stream of member 1 began; of 9 it is still to come.
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 7), partRec(7, 2, 0, 0))))
	require.NoError(t, l.Append(0, at(12, put("b", 12, 12, 9), partRec(9, 2, 0, 0))))
	l.FenceHolds(0, 1, 8, 12)
	l.FenceHolds(1, 1, 8, 10)
	require.NoError(t, l.Start(8))
	require.Equal(t, int64(8), l.Closed())
	require.NoError(t, l.Append(0, at(13, fenceRec(1, 12))))
	require.NoError(t, l.Append(1, at(11, fenceRec(1, 12))))
	require.Equal(t, int64(8), l.Closed())
	require.NoError(t, l.Append(1, at(12, partRec(9, 2, 1))))
	require.Equal(t, int64(12), l.Closed())
	require.Equal(t, []string{"b"}, keysSince(t, l, 9))
}

func TestMalformedParts(t *testing.T) {
	for name, evs := range map[string][]*mvccpb.Event{
		"more events than it says": {put("a", 11, 11, 6), partRec(6, 2, 0)},
		"another mark":             {put("a", 11, 11, 6), partRec(6, 2, 0, 0), markRec(1, 7, manifest.Landed)},
		"index beyond":             {partRec(6, 2, 2)},
		"no parts":                 {markRec(0, 6, manifest.Parted)},
		"cut lock":                 {rec(record.SlotKey(0), record.Infinity())},
		"cut lock of a member":     {rec([]byte(record.KeyLock), record.Infinity())},
	} {
		l := testLog(t, 2)
		require.ErrorIs(t, l.Append(0, at(11, evs...)), ErrForeignWrite, name)
	}
}

func TestJoinParts(t *testing.T) {
	ev := func(order int, key string) *Event {
		return &Event{Order: order, Kv: &mvccpb.KeyValue{Key: []byte(key)}}
	}
	evs := []*Event{ev(3, "a"), ev(1, "c"), ev(0, "z"), ev(1, "b"), ev(1, "d")}
	JoinParts(evs)
	var keys string
	for _, e := range evs {
		keys += string(e.Kv.Key)
	}
	require.Equal(t, "zbcda", keys)
}

// TestPreviousIsFromBeforeTheTransaction: a member takes a transaction that puts and deletes a key in several revisions.
func TestPreviousIsFromBeforeTheTransaction(t *testing.T) {
	pair := func(key, value string) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}
	}
	put := func(order int, rev int64, key string, prev *mvccpb.KeyValue) *Event {
		return &Event{Order: order, MemberRev: rev, Type: mvccpb.Event_PUT, Kv: pair(key, "new"), PrevKv: prev}
	}
	del := func(order int, rev int64, key string, prev *mvccpb.KeyValue) *Event {
		return &Event{Order: order, MemberRev: rev, Type: mvccpb.Event_DELETE, Kv: pair(key, ""), PrevKv: prev}
	}
	old, fresh := pair("k", "old"), pair("k", "new")
	for name, x := range map[string]struct {
		evs  []*Event
		want []*mvccpb.KeyValue
	}{
		"created and deleted":            {[]*Event{put(0, 7, "k", nil), del(1, 8, "k", fresh)}, []*mvccpb.KeyValue{nil, nil}},
		"put and deleted":                {[]*Event{put(0, 7, "k", old), del(1, 8, "k", fresh)}, []*mvccpb.KeyValue{old, old}},
		"deleted and created":            {[]*Event{del(0, 7, "k", old), put(1, 8, "k", nil)}, []*mvccpb.KeyValue{old, nil}},
		"deleted, created and deleted":   {[]*Event{del(0, 7, "k", old), put(1, 8, "k", nil), del(2, 9, "k", fresh)}, []*mvccpb.KeyValue{old, nil, old}},
		"in the order of the operations": {[]*Event{put(1, 7, "b", nil), put(0, 7, "a", nil), del(2, 8, "b", pair("b", "new"))}, []*mvccpb.KeyValue{nil, nil, nil}},
	} {
		JoinParts(x.evs)
		var got []*mvccpb.KeyValue
		for i, e := range x.evs {
			got = append(got, e.PrevKv)
			require.Equal(t, i, e.Order, name)
		}
		require.Equal(t, x.want, got, name)
	}
}

// waiting reports whether a call has not returned yet, in a bubble of synctest.
type waiting struct{ done chan error }

func wait(call func() error) waiting {
	w := waiting{make(chan error, 1)}
	go func() { w.done <- call() }()
	return w
}

func (w waiting) returned() (ok bool, err error) {
	synctest.Wait()
	select {
	case err := <-w.done:
		return true, err
	default:
		return false, nil
	}
}

func TestWaitUnlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Members: 2, SlotOf: func([]byte) int { return 0 }})
		ctx := t.Context()
		one, other := record.Holder{ID: record.NewTxnID(), Primary: 1}, record.Holder{ID: record.NewTxnID()}
		l.Open(0, begin, Lock{Member: 0, Slot: 3, Held: true, Holder: one})
		l.Open(1, begin)
		require.Equal(t, 1, l.Locked())
		require.Equal(t, []Lock{{Member: 0, Slot: 3, Held: true, Holder: one}}, l.Locks())
		require.NoError(t, l.WaitUnlocked(ctx, 0, 0, 1, 2), "other slots")
		require.NoError(t, l.WaitAllUnlocked(ctx, 1, 0), "another member")

		slot := wait(func() error { return l.WaitUnlocked(ctx, 0, 0, 2, 3) })
		all := wait(func() error { return l.WaitAllUnlocked(ctx, 0, 0) })
		slots := wait(func() error { return l.WaitSlotsUnlocked(ctx, 0, 0) })
		still := func(ws ...waiting) {
			t.Helper()
			for _, w := range ws {
				ok, _ := w.returned()
				require.False(t, ok)
			}
		}
		done := func(ws ...waiting) {
			t.Helper()
			for _, w := range ws {
				ok, err := w.returned()
				require.True(t, ok)
				require.NoError(t, err)
			}
		}
		still(slot, all, slots)
		// Another takes the member over all slots, and then the slot is free.
		require.NoError(t, l.Append(0, at(11, lockRec(Whole, other))))
		require.Equal(t, 2, l.Locked())
		require.NoError(t, l.Append(0, at(12, rec(record.SlotKey(3), record.Number(4)))))
		done(slots)
		still(slot, all)
		require.NoError(t, l.Append(0, at(13, rec([]byte(record.KeyLock), nil))))
		done(slot, all)
		require.Zero(t, l.Locked())
		require.Empty(t, l.Locks())

		// A holder that follows another at once is waited for as well.
		require.NoError(t, l.Append(0, at(14, lockRec(3, one))))
		slot = wait(func() error { return l.WaitUnlocked(ctx, 0, 0, 3) })
		require.NoError(t, l.Append(0, at(15, lockRec(3, other))))
		require.Equal(t, 1, l.Locked())
		still(slot)
		require.NoError(t, l.Append(0, at(16, slotRec(4), rec(record.SlotKey(3), record.Number(4)))))
		done(slot)

		// The stream has to be where the lock was met.
		behind := wait(func() error { return l.WaitUnlocked(ctx, 0, 18, 3) })
		still(behind)
		require.NoError(t, l.Append(0, at(18, lockRec(3, one))))
		still(behind)
		require.NoError(t, l.Append(0, at(19, rec(record.SlotKey(3), record.Number(4)))))
		done(behind)
	})
}

func TestWaitUnlockedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLog(t, 1)
		require.NoError(t, l.Append(0, at(11, lockRec(Whole, record.Holder{}))))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, l.WaitUnlocked(ctx, 0, 0, 1), context.DeadlineExceeded)
		w := wait(func() error { return l.WaitAllUnlocked(t.Context(), 0, 0) })
		ok, _ := w.returned()
		require.False(t, ok)
		over := errors.New("over")
		l.Fail(over)
		ok, err := w.returned()
		require.True(t, ok)
		require.ErrorIs(t, err, over)
		require.ErrorIs(t, l.WaitUnlocked(t.Context(), 0, 0, 1), over)
	})
}

// A transaction that has a member for itself leaves a fence there. Who is refused by it, or by a member's lock, was not too slow.
func TestFencedMarks(t *testing.T) {
	count := func(revs ...[]MemberRevision) uint64 {
		l := testLog(t, 1)
		for _, r := range revs {
			require.NoError(t, l.Append(0, r))
		}
		return l.FencedMarks()
	}
	late := func(rev int64) []MemberRevision { return at(rev, markRec(0, 7, manifest.Fenced)) }
	require.EqualValues(t, 1, count(at(11, fenceRec(1, 8)), late(12)))
	require.EqualValues(t, 0, count(at(11, fenceRec(1, 8), markRec(0, 8, manifest.Exclusive)), late(12)))
	require.EqualValues(t, 0, count(at(11, fenceRec(1, 8), partRec(8, 1, 0)), late(12)))
	require.EqualValues(t, 1, count(at(11, partRec(8, 1, 0)), at(12, fenceRec(1, 8)), late(13)), "a part that set no fence")
	require.EqualValues(t, 1, count(at(11, fenceRec(1, 6), markRec(0, 6, manifest.Exclusive)), at(12, fenceRec(1, 8)), late(13)))
	require.EqualValues(t, 0, count(at(11, rec([]byte(record.KeyLock), record.Holder{}.Value())), late(12)))
}
