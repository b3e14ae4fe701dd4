package history

import (
	"context"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// counted counts what a member is asked for.
type counted struct {
	*member
	clocks, revisions int
}

func (c *counted) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	return c.member.Watch(ctx, from, prevKV, func(r mergedlog.MemberRevision) (bool, error) {
		c.revisions++
		return fn(r)
	})
}

func (c *counted) Clock(ctx context.Context, rev int64) (record.ClockRecord, error) {
	c.clocks++
	return c.member.Clock(ctx, rev)
}

// A snapshot of the distant past takes a few records and its tail, however much has landed since.
func TestSnapshotsReadWhatTheyNeed(t *testing.T) {
	p := directed(t, 1, puts(2000), puts(5))
	m := &counted{member: p.members[0]}
	p.h = New(Config{Log: p.log, Members: []Member{m}, SlotOf: testSlot, Compacted: p.Compacted})
	probes := 2 * bits.Len(uint(m.rev()))
	for _, r := range []int64{1000, 1001, 2, 3999} {
		for _, most := range []int{probes, 2} { // then it is known
			m.clocks, m.revisions = 0, 0
			require.NoError(t, p.ask(t.Context(), query{kind: askSnapshot, key: []byte{0}, end: []byte{0}, from: r, member: 1}))
			require.LessOrEqual(t, m.clocks, most, "at %d", r)
			require.LessOrEqual(t, m.revisions, 6, "at %d", r)
		}
	}
}

// Samples narrow a bisection, and hide nothing from it.
func TestSamples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := int64(rapid.IntRange(1, 30).Draw(t, "revisions"))
		truth := make([]record.ClockRecord, n+1)
		for rev := int64(1); rev <= n; rev++ {
			truth[rev].Highest = truth[rev-1].Highest + rapid.Int64Range(0, 2).Draw(t, "grown")
			truth[rev].Closed = rapid.Int64Range(0, truth[rev].Highest).Draw(t, "closed")
		}
		var s samples
		for _, rev := range rapid.SliceOf(rapid.Int64Range(1, n)).Draw(t, "known") {
			s.add(rev, truth[rev])
		}
		from := rapid.Int64Range(1, n).Draw(t, "from")
		to := rapid.Int64Range(from, n).Draw(t, "to")
		r := rapid.Int64Range(truth[from].Highest, truth[n].Highest+1).Draw(t, "r")

		lo := from
		for lo < to && truth[lo+1].Highest <= r {
			lo++
		}
		a, b := s.lo(from, to, r)
		require.True(t, from <= a && a <= lo && lo <= b && b <= to, "lo %d in [%d, %d]", lo, a, b)

		a, b = s.closes(from, to, r)
		require.True(t, from <= a && a <= b && b <= to)
		require.True(t, b == to || truth[b].Closed >= r)
	})
}

func TestSamplesAreBounded(t *testing.T) {
	var s samples
	for rev := range int64(3 * maxSamples) {
		s.add(rev, record.ClockRecord{Highest: rev})
	}
	require.LessOrEqual(t, len(s.all), maxSamples)
	from, to := s.lo(0, 3*maxSamples, maxSamples)
	require.True(t, from <= maxSamples && maxSamples <= to && to-from < 16, "[%d, %d]", from, to)
}
