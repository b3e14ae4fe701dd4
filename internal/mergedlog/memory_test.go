package mergedlog

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// eventBytes is what an event of these tests counts.
const eventBytes = perEvent + 1 + 5

// outage is a log of two members, of which the second is away: what lands on the first waits.
type outage struct {
	*Log
	rev, stamp int64 // of the first member's last event
	missing    int64 // a stamp that is on its way to the second
}

func newOutage(t require.TestingT, maxEvents int64) *outage {
	l := New(Config{Members: 2, SlotOf: func([]byte) int { return 0 }, MaxBytes: maxEvents * eventBytes})
	for i := range 2 {
		l.Open(i, begin)
	}
	require.NoError(t, l.Start(5))
	return &outage{Log: l, rev: 10, stamp: 5}
}

// begin takes a stamp that does not land for a while.
func (o *outage) begin() {
	o.stamp++
	o.missing = o.stamp
}

// end lands it.
func (o *outage) end(t require.TestingT) {
	rev := o.missing + 10
	require.NoError(t, o.Append(1, at(rev, put("z", rev, rev, o.missing))))
	o.missing = 0
}

func (o *outage) write(t require.TestingT, n int) {
	for range n {
		o.rev, o.stamp = o.rev+1, o.stamp+1
		require.NoError(t, o.Append(0, at(o.rev, put("a", o.rev, o.rev, o.stamp))))
	}
}

// TestWhatHasWaitedStaysForWatchers: what is released at once, after it has waited for long, is not evicted before those who follow the log
// have got it.
func TestWhatHasWaitedStaysForWatchers(t *testing.T) {
	const most = 100
	o := newOutage(t, most)
	o.Needs(6)
	o.write(t, most)
	o.Needs(o.Closed() + 1)
	o.begin()
	from := o.missing
	o.write(t, 2*most)
	require.EqualValues(t, 2*most*eventBytes, o.Stats().Waiting)
	o.end(t)
	require.Zero(t, o.Stats().Waiting)
	require.LessOrEqual(t, o.Floor(), from, "the watchers have not got it")
	evs, _, err := o.Since(from, 0)
	require.NoError(t, err)
	require.Len(t, evs, 2*most+1)

	o.Needs(from + 50)
	require.Equal(t, from+50, o.Floor())
	o.write(t, 1)
	require.Equal(t, from+50, o.Floor(), "what they lack stays")
	o.Needs(o.Closed() + 1)
	require.Equal(t, most, o.Stats().Released, "back to what is kept at any time")
}

// TestNothingStaysForEver: somebody who does not go on does not hold more than was released at once, and not even that for good.
func TestNothingStaysForEver(t *testing.T) {
	const most = 100
	o := newOutage(t, most)
	o.Needs(6)
	o.write(t, 3*most)
	require.Equal(t, most, o.Stats().Released, "what comes and goes is evicted as ever")
	o.begin()
	o.write(t, 2*most)
	o.end(t)
	for range 4 * most {
		o.write(t, 1)
		require.LessOrEqual(t, o.Stats().Bytes, int64(mostTimes*most*eventBytes))
	}
	require.Equal(t, most, o.Stats().Released)
}

// TestNobodyNeedsAnything: a log that nobody follows keeps what it is to keep.
func TestNobodyNeedsAnything(t *testing.T) {
	const most = 100
	o := newOutage(t, most)
	o.begin()
	o.write(t, 2*most)
	o.end(t)
	require.Equal(t, most, o.Stats().Released)
}

// TestWhatDoesNotFitIsLetGo: a member that stays away costs a bounded memory. What was let go is evicted when W moves, and what was not
// is there; reads at W go on as before.
func TestWhatDoesNotFitIsLetGo(t *testing.T) {
	const most = 100
	o := newOutage(t, most)
	o.Needs(6)
	o.write(t, most)
	// W stops in the middle of a member revision, so that reads at W have a tail.
	o.rev, o.stamp = o.rev+1, o.stamp+1
	o.begin()
	w := o.missing - 1
	o.stamp++
	require.NoError(t, o.Append(0, at(o.rev, put("b", o.rev, o.rev, w), put("a", o.rev, o.rev, o.stamp))))
	require.Equal(t, w, o.Closed())
	for i := range 20 * most {
		o.write(t, 1)
		s := o.Stats()
		require.LessOrEqual(t, s.Waiting, int64((mostTimes-1)*most*eventBytes))
		require.LessOrEqual(t, s.Bytes, int64(most*eventBytes))
		require.Equal(t, i+2, s.Pending)
		snaps, err := o.Snapshot(w, []int{0}, []byte("b"), nil)
		require.NoError(t, err)
		require.Len(t, snaps[0].Tail, 1)
	}
	require.Len(t, o.window.gone, 1, "runs of stamps, not stamps")
	callers, _ := o.Waiting(1)
	require.True(t, callers, "somebody may want what is not known any more")
	_, err := o.Snapshot(w+1, []int{0}, []byte("b"), nil)
	require.ErrorIs(t, err, ErrNotClosed)

	o.Needs(w + 1)
	o.end(t)
	require.Equal(t, o.stamp, o.Closed())
	_, _, err = o.Since(w+1, 0)
	require.ErrorIs(t, err, ErrEvicted)
	floor := o.Floor()
	evs, _, err := o.Since(floor, 0)
	require.NoError(t, err)
	require.Len(t, evs, int(o.stamp-floor+1))
	require.Greater(t, len(evs), most, "they are for those who follow the log")
	require.Equal(t, floor-1, o.ReplayTo())
	_, err = o.Snapshot(w, []int{0}, []byte("b"), nil)
	require.ErrorIs(t, err, ErrEvicted, "its tail is as old as what was let go")
	_, err = o.Snapshot(o.stamp, []int{0, 1}, []byte("b"), nil)
	require.NoError(t, err)
	o.Needs(o.Closed() + 1)
	require.Equal(t, most, o.Stats().Released)
	require.Equal(t, o.Closed(), o.ReplayTo())
}

// TestAnOpeningIsBounded: so is what waits for a log to be started, while the streams bring more.
func TestAnOpeningIsBounded(t *testing.T) {
	const most = 10
	l := New(Config{Members: 2, SlotOf: func([]byte) int { return 0 }, MaxBytes: most * eventBytes})
	l.Open(0, begin)
	for i := range int64(10 * most) {
		require.NoError(t, l.Append(0, at(11+i, put("a", 11+i, 11+i, 6+i))))
		require.LessOrEqual(t, l.Stats().Waiting, int64((mostTimes-1)*most*eventBytes))
	}
	l.Open(1, begin)
	const c = 6 + 5*most
	for i := range 2 {
		l.FenceHolds(i, 1, c, 10)
	}
	require.NoError(t, l.Start(c))
	require.EqualValues(t, 6+10*most-1, l.Closed())
	evs, _, err := l.Since(l.Floor(), 0)
	require.NoError(t, err)
	require.Len(t, evs, int(l.Closed()-l.Floor()+1))
	require.NotEmpty(t, evs)
}

// TestRuns: a set of stamps.
func TestRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs runs
		set := map[int64]bool{}
		for _, stamp := range rapid.SliceOf(rapid.Int64Range(1, 40)).Draw(t, "stamps") {
			rs.add(stamp)
			set[stamp] = true
			last := int64(-1)
			for _, r := range rs {
				require.Less(t, last+1, r.from, "they do not touch: %v", rs)
				require.LessOrEqual(t, r.from, r.to)
				last = r.to
			}
			for s := range int64(42) {
				require.Equal(t, set[s], rs.has(s), "%d in %v", s, rs)
			}
			require.Equal(t, len(set), rs.stamps())
		}
	})
}

// TestMemoryModel: whatever waits, is released and is needed, events in memory are what comes last, as many as are to be kept
// at least, not more than the bound, and all that those lack who follow the log, unless the bound forbids it.
func TestMemoryModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(8, 64).Draw(t, "max")
		o := newOutage(t, most)
		needed := int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				if o.missing == 0 {
					o.begin()
				}
			case 1:
				if o.missing > 0 {
					o.end(t)
				}
			case 2:
				needed = max(needed, rapid.Int64Range(0, o.Closed()+1).Draw(t, "needed"))
				o.Needs(needed)
			default:
				o.write(t, rapid.IntRange(1, 30).Draw(t, "writes"))
			}
			o.check(t, most, needed)
		}
	})
}

func (o *outage) check(t *rapid.T, most, needed int64) {
	s := o.Stats()
	evs, _, err := o.Since(o.Floor(), 0)
	require.NoError(t, err)
	require.Len(t, evs, s.Released)
	require.EqualValues(t, s.Released*eventBytes, s.Bytes)
	for i, e := range evs {
		require.Equal(t, o.Closed()-int64(len(evs)-1-i), e.Rev, "stamps are dense, and the last one is W")
	}
	if released := o.Closed() - 5; int64(s.Released) < min(most, released) && o.stamp-5 <= (mostTimes-1)*most {
		t.Fatalf("%d events in memory of %d, %d are to be kept", s.Released, released, most)
	}
	if s.Waiting > (mostTimes-1)*most*eventBytes {
		t.Fatalf("%d bytes wait, and %d are to be kept", s.Waiting, most*eventBytes)
	}
	switch {
	case int64(s.Released) <= most:
	case needed == 0 || o.Floor() < needed:
		t.Fatalf("%d events in memory, from %d on, and nothing is needed below %d", s.Released, o.Floor(), needed)
	case s.Bytes+s.Waiting > mostTimes*most*eventBytes:
		t.Fatalf("%d bytes in memory, %d wait, and %d are to be kept", s.Bytes, s.Waiting, most*eventBytes)
	}
}
