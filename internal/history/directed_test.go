package history

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// directed returns a process with no history but what the caller makes; the log starts after the past.
func directed(t *testing.T, members int, past, present func(w *world)) *process {
	p := &process{world: newWorld(nil, members), full: true}
	past(p.world)
	p.log = mergedlog.New(mergedlog.Config{Members: members, SlotOf: testSlot, MaxBytes: 1})
	start, at := p.clock, make([]int64, members)
	deliver := func() {
		for i, m := range p.members {
			for ; at[i] < m.rev(); at[i]++ {
				require.NoError(t, p.log.Append(i, []mergedlog.MemberRevision{m.deliverable(at[i]+1, true)}))
			}
		}
	}
	cfg := Config{Log: p.log, SlotOf: testSlot, Compacted: p.Compacted}
	for i, m := range p.members {
		p.log.Open(i, m.state())
		at[i] = m.rev()
		m.raise(start)
		cfg.Members = append(cfg.Members, m)
	}
	deliver()
	require.NoError(t, p.log.Start(start))
	present(p.world)
	for _, m := range p.members {
		m.raise(p.clock)
	}
	deliver()
	p.h = newHistory(cfg, 1, 1<<10)
	slices.SortStableFunc(p.landed, func(a, b landing) int { return cmp.Compare(a.stamp, b.stamp) })
	return p
}

// puts lands n pairs of stamps on two keys of the last member, each in the wrong order, and after each a stamp that
// changes nothing on the others, and revisions without a stamp.
func puts(n int) func(w *world) {
	return func(w *world) {
		last := len(w.members) - 1
		for range n {
			for i, stamp := range []int64{w.clock + 2, w.clock + 1} {
				c := w.members[last].begin()
				c.put(keyName(last, 2*i), stamp)
				c.commit()
			}
			w.clock += 2
			for _, m := range w.members[:last] {
				w.clock++
				c := m.begin()
				c.mark(w.clock, manifest.Surrendered)
				c.commit()
			}
			w.members[last].raise(w.clock - 1)
			w.members[last].raise(w.clock)
		}
	}
}

// TestReplayOutlivesCompaction: what compaction takes from behind a replay, the replay does not need.
func TestReplayOutlivesCompaction(t *testing.T) {
	p := directed(t, 2, func(w *world) {
		w.clock++
		c := w.members[0].begin()
		c.put(keyName(0, 0), w.clock)
		c.commit()
		puts(20)(w)
	}, puts(20))
	var got []int64
	err := p.h.Replay(context.Background(), []byte{0}, []byte{0}, 2, p.log.Closed(), func(evs []*mergedlog.Event) error {
		got = append(got, evs[0].Rev)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.compact(compaction{rev: evs[0].Rev + 1})
		return nil
	})
	require.NoError(t, err)
	require.Len(t, got, 81)
	require.True(t, slices.IsSorted(got))

	p = directed(t, 1, puts(5), puts(5))
	boom := errors.New("boom")
	require.Equal(t, boom, p.h.Replay(context.Background(), []byte{0}, []byte{0}, p.log.Closed(), p.log.Closed(),
		func([]*mergedlog.Event) error { return boom }))
}

// TestCompactedByRecord: what the user has compacted is gone, though members may not have come to it.
func TestCompactedByRecord(t *testing.T) {
	p := directed(t, 1, puts(5), puts(5))
	p.known, p.compacted = 9, 9
	ctx := context.Background()
	_, err := p.h.Lo(ctx, 0, 7)
	require.Equal(t, rpctypes.ErrGRPCCompacted, err)
	_, err = p.h.Lo(ctx, 0, 8)
	require.NoError(t, err)
	replay := func(from int64) error {
		return p.h.Replay(ctx, []byte{0}, []byte{0}, from, 20, func([]*mergedlog.Event) error { return nil })
	}
	require.Equal(t, &watchhub.CompactedError{Rev: 9}, replay(8))
	require.NoError(t, replay(9))
	require.NoError(t, replay(21), "an empty interval")
}

// TestQuietMember: the base of a member without news moves on with the member, as its compaction does.
func TestQuietMember(t *testing.T) {
	p := directed(t, 1, func(w *world) { puts(3)(w); w.clock += 10 }, func(*world) {})
	ctx, m := context.Background(), p.members[0]
	q := query{kind: askSnapshot, key: []byte{0}, end: []byte{0}, from: p.log.Began() - 2, member: 1}
	require.NoError(t, p.ask(ctx, q))
	rev := m.raise(p.clock + 5)
	require.NoError(t, p.log.Append(0, []mergedlog.MemberRevision{m.deliverable(rev, true)}))
	p.compact(compaction{rev: q.from + 1, silent: true})
	require.Equal(t, rev, m.compacted)
	require.NoError(t, p.ask(ctx, q))
}

// coarseLog is a log whose index was thinned.
type coarseLog struct{ *mergedlog.Log }

func (l coarseLog) Lo(member int, r int64) (lo, hi int64, ok bool) {
	lo, hi, ok = l.Log.Lo(member, r)
	return lo - 5, hi, ok
}

// TestCoarseLog: a log that has forgotten where exactly a base is may point below where another process has
// compacted. Then what is compacted is as good a base.
func TestCoarseLog(t *testing.T) {
	for tick := range 5 { // of the compaction; then the watch has passed the events that it takes
		p := directed(t, 1, puts(5), puts(10))
		p.h.log = coarseLog{p.log}
		const r = 20
		p.plan = []compaction{{tick: tick, rev: r + 1, silent: true}}
		ctx := context.Background()
		require.NoError(t, p.ask(ctx, query{kind: askSnapshot, key: []byte{0}, end: []byte{0}, from: r, member: 1}))
		require.Positive(t, p.members[0].compacted)

		p = directed(t, 1, puts(5), puts(10))
		p.h.log = coarseLog{p.log}
		p.plan = []compaction{{tick: tick, rev: r + 1, silent: true}}
		q := query{kind: askReplay, key: []byte{0}, end: []byte{0}, from: r + 1, to: p.log.Closed()}
		require.NoError(t, p.ask(ctx, q))
		require.Positive(t, p.members[0].compacted)
	}
}

// TestCanceled: whoever waits for the index to be extended goes when its context ends.
func TestCanceled(t *testing.T) {
	p := directed(t, 1, puts(5), puts(5))
	p.h.pasts[0].turn <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error)
	go func() {
		_, err := p.h.Snapshot(ctx, 4, []int{0}, []byte{0}, []byte{0})
		errs <- err
	}()
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)
	<-p.h.pasts[0].turn
	require.NoError(t, p.ask(context.Background(), query{kind: askSnapshot, key: []byte{0}, end: []byte{0}, from: 4, member: 1}))
}

// TestFailures: errors of members reach the caller, and do no lasting harm.
func TestFailures(t *testing.T) {
	p := directed(t, 1, puts(5), puts(5))
	boom := errors.New("boom")
	for calls := range 40 {
		p.h = New(Config{
			Log: p.log, Members: []Member{&failing{p.members[0], calls, boom}}, SlotOf: testSlot, Compacted: p.Compacted,
		})
		q := query{kind: calls % 3, key: []byte{0}, end: []byte{0}, from: 5, to: p.log.Closed(), member: 1}
		if q.kind == askLo {
			q.member = 0
		}
		if err := p.ask(context.Background(), q); err != nil {
			require.ErrorIs(t, err, boom)
			require.NoError(t, p.ask(context.Background(), q))
		}
	}
}

// failing fails once, after some calls.
type failing struct {
	*member
	after int
	err   error
}

func (f *failing) fails() bool {
	f.after--
	return f.after == -1
}

func (f *failing) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	return f.member.Watch(ctx, from, prevKV, func(r mergedlog.MemberRevision) (bool, error) {
		if f.fails() {
			return false, f.err
		}
		return fn(r)
	})
}

func (f *failing) Clock(ctx context.Context, rev int64) (record.ClockRecord, error) {
	if f.fails() {
		return record.ClockRecord{}, f.err
	}
	return f.member.Clock(ctx, rev)
}

// asked counts what is asked of a member.
type asked struct {
	*member
	states, changes, watches int
}

func (a *asked) State(ctx context.Context, rev int64, key []byte, slot int) (KeyState, error) {
	a.states++
	return a.member.State(ctx, rev, key, slot)
}

func (a *asked) Change(ctx context.Context, rev int64, key []byte) (mergedlog.MemberRevision, error) {
	a.changes++
	return a.member.Change(ctx, rev, key)
}

func (a *asked) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	a.watches++
	return a.member.Watch(ctx, from, prevKV, fn)
}

// TestOneKeyIsFoundByPointReads: a key at an old revision needs no history but a few reads of the key, however much has happened.
func TestOneKeyIsFoundByPointReads(t *testing.T) {
	const revisions = 5000
	hot, cold := keyName(0, 0), keyName(0, 2)
	p := directed(t, 1, func(w *world) {
		for i := range revisions {
			w.clock++
			c := w.members[0].begin()
			switch key := hot; {
			case i%1000 == 500:
				c.put(cold, w.clock)
			case i%7 == 6:
				c.del(key, w.clock)
				c.slot(testSlot([]byte(key)), w.clock)
			default:
				c.put(key, w.clock)
			}
			c.commit()
		}
	}, func(*world) {})
	for _, key := range []string{hot, cold, keyName(0, 3)} {
		for r := int64(2); r < revisions; r += 97 {
			a := &asked{member: p.members[0]}
			p.h.pasts[0].Member = a
			require.NoError(t, p.askSnapshot(context.Background(), query{from: r, key: []byte(key)}), "%s at %d", key, r)
			require.Zero(t, a.watches)
			require.LessOrEqual(t, a.states, 16)
			require.LessOrEqual(t, a.changes, 1)
		}
	}
}

// TestLocksHideAKey: where a slot is locked, its clock says nothing of deletes. What lies behind and in front of the lock is asked then, and
// what is left, revision by revision, or all that has happened.
func TestLocksHideAKey(t *testing.T) {
	for name, held := range map[string]int{"a short lock": 10, "a long one": 10 * maxSteps} {
		t.Run(name, func(t *testing.T) {
			key := keyName(0, 0)
			slot := testSlot([]byte(key))
			var before, deleted, after int64
			p := directed(t, 1, func(w *world) {
				m := w.members[0]
				write := func(of int, n int) {
					for range n {
						w.clock++
						c := m.begin()
						c.put(keyName(0, of), w.clock)
						c.commit()
					}
				}
				write(0, 5)
				write(2, held)
				before = w.clock
				c := m.begin()
				holder := record.Holder{ID: record.NewTxnID()}
				c.hold(slot, holder)
				c.commit()
				write(2, held)
				w.clock++
				deleted = w.clock
				c = m.begin() // the first of two parts
				c.del(key, deleted)
				c.hold(slot, holder.At(1))
				c.mark(deleted, manifest.Parted)
				c.part = &manifest.Part{Shares: []manifest.Share{{Member: 1, Parts: 2}}}
				w.flying = []int64{deleted} // the other part
				c.commit()
				write(2, held)
				after = w.clock
				c = m.begin()
				c.put(keyName(0, 1), deleted)
				c.slot(slot, deleted)
				c.mark(deleted, manifest.Parted)
				c.part = &manifest.Part{Index: 1, Shares: []manifest.Share{{Member: 1, Parts: 2}}}
				w.flying = nil
				c.commit()
				write(2, held)
			}, func(*world) {})
			for _, r := range []int64{before, before + 1, deleted - 1, deleted, deleted + 1, after, after + 1} {
				require.NoError(t, p.askSnapshot(context.Background(), query{from: r, key: []byte(key)}), "at %d", r)
			}
		})
	}
}
