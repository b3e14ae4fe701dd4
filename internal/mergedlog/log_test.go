package mergedlog

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// The members of these tests have one slot, and begin at revision 10 in epoch 1 with fence and clock at 5.
var begin = MemberState{Rev: 10, Epoch: 1, Fence: 5, Clock: 5}

func testLog(t testing.TB, members int) *Log {
	l := New(Config{Members: members, SlotOf: func([]byte) int { return 0 }})
	for i := range members {
		l.Open(i, begin)
	}
	require.NoError(t, l.Start(5))
	return l
}

func put(key string, rev, created, stamp int64) *mvccpb.Event {
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{
		Key: []byte(key), ModRevision: rev, CreateRevision: created, Version: 1,
		Value: record.Header{Stamp: stamp, Create: stamp}.Value([]byte("value")),
	}}
}

func del(key string, rev int64) *mvccpb.Event {
	return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}}
}

func with(ev, prev *mvccpb.Event) *mvccpb.Event {
	ev.PrevKv = prev.Kv
	return ev
}

func rec(key, value []byte) *mvccpb.Event {
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Value: value}}
}

// markRec is a manifest that says what became of a stamp.
func markRec(i int, stamp int64, kind manifest.Kind) *mvccpb.Event {
	return noteRec(i, manifest.Entry{Stamp: stamp, Kind: kind})
}

func noteRec(i int, entries ...manifest.Entry) *mvccpb.Event {
	return rec(record.NestedKey(i), manifest.Encode(entries...))
}

func slotRec(stamp int64) *mvccpb.Event { return rec(record.SlotKey(0), record.Number(stamp)) }

func fenceRec(epoch, f int64) *mvccpb.Event {
	return rec([]byte(record.KeyFence), record.Pair(epoch, f))
}

// at is a member revision with a manifest that names its events; deletes have the stamp of the slot's clock.
func at(rev int64, evs ...*mvccpb.Event) []MemberRevision {
	return raw(rev, noted(evs)...)
}

func raw(rev int64, evs ...*mvccpb.Event) []MemberRevision {
	return []MemberRevision{{Rev: rev, Events: evs}}
}

func noted(evs []*mvccpb.Event) []*mvccpb.Event {
	var entries []manifest.Entry
	var alone *mvccpb.Event // the manifest of what has the revision for itself
	var slot int64
	for _, ev := range evs {
		switch record.KindOf(ev.Kv.Key) {
		case record.Slot:
			if n, err := record.ParseNumber(ev.Kv.Value); err == nil && n < math.MaxInt64 {
				slot = n
			}
		case record.Manifest, record.Nested:
			if got, err := manifest.Decode(ev.Kv.Value); err == nil && len(got) == 1 && (got[0].Kind == manifest.Exclusive || got[0].Kind == manifest.Parted) {
				alone, entries = ev, got
			}
		}
	}
	n := 0
	for _, ev := range evs {
		name := manifest.Name{Touch: manifest.Put, Key: ev.Kv.Key}
		h, _, err := record.ParseHeader(ev.Kv.Value)
		switch {
		case record.KindOf(ev.Kv.Key) != record.User:
			continue
		case ev.Type == mvccpb.Event_DELETE:
			name.Touch, h.Stamp = manifest.Deleted, slot
		case err != nil:
			continue
		}
		switch {
		case alone != nil && entries[0].Kind == manifest.Parted:
			if n < len(entries[0].Names) {
				name.Op = entries[0].Names[n].Op
				entries[0].Names[n] = name
			}
			n++
		case alone != nil:
			entries[0].Names = append(entries[0].Names, name)
		case h.Stamp == 0:
		case len(entries) > 0 && entries[len(entries)-1].Stamp == h.Stamp:
			entries[len(entries)-1].Names = append(entries[len(entries)-1].Names, name)
		default:
			entries = append(entries, manifest.Entry{Stamp: h.Stamp, Kind: manifest.Landed, Names: []manifest.Name{name}})
		}
	}
	switch {
	case alone != nil:
		alone.Kv.Value = manifest.Encode(entries...)
	case len(entries) > 0:
		evs = append(evs, rec([]byte(record.KeyManifest), manifest.Encode(entries...)))
	}
	return evs
}

func named(stamp int64, names ...manifest.Name) manifest.Entry {
	return manifest.Entry{Stamp: stamp, Kind: manifest.Landed, Names: names}
}

func putOf(key string) manifest.Name {
	return manifest.Name{Touch: manifest.Put, Key: []byte(key)}
}

func TestAppendErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		revs []MemberRevision
		want error
	}{
		{"put without header", at(11, rec([]byte("a"), []byte("x"))), ErrForeignWrite},
		{"put with a header of stamp 0", at(11, rec([]byte("a"), make([]byte, 20))), ErrForeignWrite},
		{"put after a foreign put", at(11, with(put("a", 11, 3, 6), rec([]byte("a"), []byte("x")))), ErrForeignWrite},
		{"delete without a stamp", at(11, with(del("a", 11), put("a", 3, 3, 3))), ErrForeignWrite},
		{
			"delete with two marks",
			at(11, with(del("a", 11), put("a", 3, 3, 3)), markRec(0, 6, manifest.Exclusive), markRec(1, 7, manifest.Landed)),
			ErrForeignWrite,
		},
		{
			"delete with a mark that is not exclusive",
			at(11, with(del("a", 11), put("a", 3, 3, 3)), markRec(0, 6, manifest.Landed)),
			ErrForeignWrite,
		},
		{
			"delete with a locked slot",
			at(11, with(del("a", 11), put("a", 3, 3, 3)), rec(record.SlotKey(0), record.Infinity())),
			ErrForeignWrite,
		},
		{"malformed manifest", at(11, rec(record.NestedKey(0), record.Number(6))), ErrForeignWrite},
		{"deleted manifest", at(11, del(record.KeyManifest, 11)), ErrForeignWrite},
		{"unknown kind", at(11, markRec(0, 6, manifest.Surrendered+1)), ErrForeignWrite},
		{"mark of stamp 0", at(11, markRec(0, 0, manifest.Landed)), ErrForeignWrite},
		{"put without a manifest", raw(11, put("a", 11, 11, 6)), ErrForeignWrite},
		{"put that no manifest names", raw(11, put("a", 11, 11, 6), noteRec(0, named(6, putOf("b")))), ErrForeignWrite},
		{"put beside a manifest", raw(11, put("a", 11, 11, 6), put("b", 11, 11, 6), noteRec(0, named(6, putOf("a")))), ErrForeignWrite},
		{"named put that is not there", raw(11, put("a", 11, 11, 6), noteRec(0, named(6, putOf("a"), putOf("b")))), ErrOverrun},
		{"named put that is not there, before another", raw(11, put("b", 11, 11, 6), noteRec(0, named(6, putOf("a"), putOf("b")))), ErrOverrun},
		{"put in another order", raw(11, put("b", 11, 11, 6), put("a", 11, 11, 6), noteRec(0, named(6, putOf("a"), putOf("b")))), ErrForeignWrite},
		{"put with another stamp", raw(11, put("a", 11, 11, 6), noteRec(0, named(7, putOf("a")))), ErrForeignWrite},
		{"delete of a put key", raw(11, with(del("a", 11), put("a", 3, 3, 3)), noteRec(0, named(6, putOf("a")))), ErrForeignWrite},
		{"put of a deleted key", raw(11, put("a", 11, 11, 6), noteRec(0, named(6, manifest.Name{Touch: manifest.Deleted, Key: []byte("a")}))), ErrForeignWrite},
		{"put of a compared key", raw(11, put("a", 11, 11, 6), noteRec(0, named(6, manifest.Name{Touch: manifest.Compared, Key: []byte("a")}))), ErrForeignWrite},
		{"stamp beside an exclusive one", at(11, markRec(0, 6, manifest.Exclusive), markRec(1, 7, manifest.Surrendered)), ErrForeignWrite},
		{"nothing that is followed", at(11, rec(record.TxnKey(record.TxnID{1}), record.Number(3))), ErrForeignWrite},
		{"deleted slot clock", at(11, del(string(record.SlotKey(0)), 11)), ErrForeignWrite},
		{"malformed fence", at(11, rec([]byte(record.KeyFence), record.Number(6))), ErrForeignWrite},
		{"put of a closed stamp", at(11, put("a", 11, 11, 5)), ErrClockBroken},
		{"delete of a closed stamp", at(11, slotRec(5), with(del("a", 11), put("a", 3, 3, 3))), ErrClockBroken},
		{"fence that falls", at(11, fenceRec(1, 4)), ErrClockBroken},
		{"epoch that falls", at(11, fenceRec(0, 9)), ErrClockBroken},
		{"update without previous value", at(11, put("a", 11, 3, 6)), ErrOverrun},
		{"delete without previous value", at(11, slotRec(6), del("a", 11)), ErrOverrun},
		{"revision twice", append(at(11, put("a", 11, 11, 6)), at(11, put("b", 11, 11, 7))...), ErrOutOfOrder},
		{"revision before the stream", at(10, put("a", 10, 10, 6)), ErrOutOfOrder},

		{"late refusal", at(11, markRec(0, 4, manifest.Fenced)), nil},
		{"late surrender", at(11, markRec(0, 4, manifest.Surrendered)), nil},
		{"locked slot", at(11, rec(record.SlotKey(0), record.Holder{}.Value())), nil},
		{"a manifest that says nothing", at(11, rec(record.TxnKey(record.TxnID{1}), record.Number(3)), noteRec(0)), nil},
		{"progress, twice", append(at(12), at(12)...), nil},
		{"progress from the past", at(9), nil},
		{"unknown record", at(11, rec([]byte("\x00news"), nil)), nil},
		{"deleted lease record", at(11, del("\x00lease/x", 11)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := testLog(t, 1)
			err := l.Append(0, c.revs)
			if c.want == nil {
				require.NoError(t, err)
				require.NoError(t, l.Err())
				require.Equal(t, int64(5), l.Closed())
				return
			}
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, l.Err(), c.want, "the log has failed")
			require.ErrorIs(t, l.Append(0, at(20)), c.want, "and stays so")
			require.ErrorIs(t, l.WaitClosed(context.Background(), 100), c.want)
		})
	}
}

func TestStart(t *testing.T) {
	l := New(Config{Members: 2, SlotOf: func([]byte) int { return 0 }})
	require.ErrorIs(t, l.Start(5), ErrNotFenced, "no member is open")
	l.Open(0, begin)
	require.ErrorIs(t, l.Start(5), ErrNotFenced, "one is not")
	l.Open(1, MemberState{Rev: 10, Epoch: 1, Fence: 9, Clock: 8})
	require.ErrorIs(t, l.Start(5), ErrClockBroken, "member 1 had stamp 8 already")
	require.ErrorIs(t, l.Start(8), ErrNotFenced)

	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 7), put("b", 11, 11, 9))))
	require.Zero(t, l.Closed())
	_, _, blocked := l.Gap()
	require.False(t, blocked, "nothing is closed before Start")
	_, err := l.Snapshot(5, []int{0}, []byte("a"), nil)
	require.ErrorIs(t, err, ErrNotClosed)

	l.FenceHolds(0, 1, 8, 11)
	require.NoError(t, l.Start(8))
	require.Error(t, l.Start(8), "twice")
	require.Equal(t, int64(9), l.Closed(), "the mark of 9 was seen")
	require.Equal(t, int64(9), l.Floor())
	evs, next, err := l.Since(9, 0)
	require.NoError(t, err)
	require.Len(t, evs, 1)
	require.Equal(t, int64(10), next)
	_, _, err = l.Since(8, 0)
	require.ErrorIs(t, err, ErrEvicted)

	snaps, err := l.Snapshot(8, []int{0}, []byte{0}, []byte{0})
	require.NoError(t, err)
	require.Equal(t, int64(10), snaps[0].Lo, "before 9")
	require.Len(t, snaps[0].Tail, 1, "stamp 7 is not released, but part of the snapshot")
	require.Equal(t, "a", string(snaps[0].Tail[0].Kv.Key))
}

// TestFences: a fence closes when it was seen on every member, and a raise counts when the stream is there.
func TestFences(t *testing.T) {
	l := testLog(t, 3)
	require.NoError(t, l.Append(0, at(11, fenceRec(1, 20))))
	require.NoError(t, l.Append(1, at(11, fenceRec(1, 30))))
	require.Equal(t, int64(5), l.Closed(), "member 2 may still land 6")

	l.FenceHolds(2, 1, 20, 12)
	require.Equal(t, int64(5), l.Closed(), "the stream has not reached 12")
	require.NoError(t, l.Append(2, at(11, put("a", 11, 11, 15))))
	require.Equal(t, int64(5), l.Closed(), "nor here; a write comes before the fence")
	require.NoError(t, l.Append(2, at(12)))
	require.Equal(t, int64(20), l.Closed())
	evs, _, err := l.Since(6, 0)
	require.NoError(t, err)
	require.Len(t, evs, 1)

	l.FenceHolds(0, 1, 25, 11)
	require.Equal(t, int64(20), l.Closed())
	l.FenceHolds(2, 1, 25, 12)
	require.Equal(t, int64(25), l.Closed(), "the stream was there already")

	l.FenceHolds(0, 2, 28, 11)
	l.FenceHolds(2, 1, 28, 13)
	require.NoError(t, l.Append(2, at(13, fenceRec(2, 25))))
	l.FenceHolds(0, 1, 28, 11)
	require.Equal(t, int64(25), l.Closed(), "a raise of another epoch does not count")
	require.Equal(t, MemberState{Rev: 13, Epoch: 2, Fence: 25, Clock: 15}, l.Position(2))
	require.Equal(t, int64(2), l.Epoch())
}

// TestFenceJump: a fence may close billions of stamps at once.
func TestFenceJump(t *testing.T) {
	l := testLog(t, 1)
	const far = math.MaxInt64 / 4
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, far/2), fenceRec(1, far))))
	require.Equal(t, int64(far), l.Closed())
	evs, next, err := l.Since(6, 1)
	require.NoError(t, err)
	require.Len(t, evs, 1)
	require.Equal(t, int64(far+1), next)
}

func TestOnRecord(t *testing.T) {
	var l *Log
	var seen []string
	l = New(Config{Members: 1, SlotOf: func([]byte) int { return 0 }, OnRecord: func(member int, rev int64, kv *mvccpb.KeyValue) {
		require.Less(t, l.Position(0).Rev, rev, "called before the revision is visible")
		l.SetCompacted(1)
		seen = append(seen, fmt.Sprintf("%d@%d %s=%s", member, rev, kv.Key[1:], kv.Value))
	}})
	l.Open(0, begin)
	require.NoError(t, l.Append(0, append(append(
		at(11, rec([]byte(record.KeyCompacted), []byte("x"))),
		at(12, put("a", 12, 12, 6), rec([]byte(record.KeyLock), nil))...),
		at(13, del(record.KeyLock, 13), rec([]byte(record.KeyTopology), nil))...)))
	require.Equal(t, []string{"0@11 compacted=x"}, seen)
}

// TestUserView: what leaves the log is what etcd would show.
func TestUserView(t *testing.T) {
	l := testLog(t, 1)
	stored := record.Header{Stamp: 7, Create: 3, VersionBase: 2, Lease: 9}.Value(nil)
	update := with(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 12, CreateRevision: 4, Version: 2, Value: stored, Lease: 1234}}, put("a", 4, 4, 3))
	require.NoError(t, l.Append(0, at(11, put("b", 11, 11, 6))))
	require.NoError(t, l.Append(0, at(12, update)))
	require.NoError(t, l.Append(0, at(13, slotRec(8), with(del("b", 13), put("b", 11, 11, 6)))))
	evs, _, err := l.Since(6, 0)
	require.NoError(t, err)
	require.Len(t, evs, 3)
	require.Equal(t, `del=false rev=6 native=11 b="value" create=6 mod=6 version=1 lease=0`, eventString(evs[0]))
	require.Nil(t, evs[0].PrevKv)
	require.Equal(t, `del=false rev=7 native=12 a="" create=3 mod=7 version=4 lease=9`, eventString(evs[1]))
	require.Equal(t, int64(4), evs[1].NativeCreate)
	require.Equal(t, `a="value" create=3 mod=3 version=1 lease=0`, kvString(evs[1].PrevKv))
	require.Equal(t, `del=true rev=8 native=13 b="" create=0 mod=8 version=0 lease=0`, eventString(evs[2]))
	require.Equal(t, `b="value" create=6 mod=6 version=1 lease=0`, kvString(evs[2].PrevKv))
}

// TestLoNeedsNoEvents: the index outlives the events.
func TestLoNeedsNoEvents(t *testing.T) {
	l := New(Config{Members: 1, SlotOf: func([]byte) int { return 0 }, MaxBytes: 1})
	l.Open(0, begin)
	require.NoError(t, l.Start(5))
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 6), put("b", 11, 11, 8))))
	require.NoError(t, l.Append(0, at(12, put("c", 12, 12, 7))))
	require.NoError(t, l.Append(0, at(13, put("d", 13, 13, 9))))
	require.Equal(t, Stats{}, l.Stats())
	require.Equal(t, int64(10), l.Floor())
	lo, hi, ok := l.Lo(0, 7)
	require.True(t, ok)
	require.Equal(t, [2]int64{10, 12}, [2]int64{lo, hi})
	_, err := l.Snapshot(7, []int{0}, []byte("a"), nil)
	require.ErrorIs(t, err, ErrEvicted, "it had a tail")
	snaps, err := l.Snapshot(8, []int{0}, []byte("a"), nil)
	require.NoError(t, err, "it has none")
	require.Equal(t, []MemberSnapshot{{Lo: 12}}, snaps)
	for _, r := range []int64{4, 10} {
		_, _, ok = l.Lo(0, r)
		require.False(t, ok, "%d is not between Start and W", r)
	}
}

// A member may hold revisions that put and delete a key, though none are written any more.
func TestDeleteBehindAPutOfTheSameRevision(t *testing.T) {
	rev := func() MemberRevision {
		h := record.Header{Stamp: 5, Create: 5}
		return at(11,
			&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: h.Value([]byte("v")), CreateRevision: 11, ModRevision: 11, Version: 1}},
			del("k", 11), rec(record.SlotKey(1), record.Number(5)))[0]
	}
	slot := func([]byte) int { return 1 }
	l := New(Config{Members: 1, SlotOf: slot})
	l.Open(0, MemberState{Rev: 10, Epoch: 1, Fence: 4, Clock: 4})
	require.NoError(t, l.Start(4))
	require.NoError(t, l.Append(0, []MemberRevision{rev()}))
	evs, _, err := l.Since(5, 10)
	require.NoError(t, err)
	require.Len(t, evs, 2)
	require.Nil(t, evs[1].PrevKv, "there was nothing before the revision")
	require.EqualValues(t, 5, evs[1].Rev)

	old := rev()
	read, _, err := NewParser(0).Parse(&old)
	require.NoError(t, err)
	require.False(t, read[1].Bare(), "nothing is missing")
}
