package mergedlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

// bounded makes a test that would hang fail instead.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

func TestWaitClosed(t *testing.T) {
	l := testLog(t, 1)
	ctx, cancel := bounded()
	require.NoError(t, l.WaitClosed(ctx, 5))

	results := make(chan error)
	wait := func(rev int64) {
		was := l.waiting()
		go func() { results <- l.WaitClosed(ctx, rev) }()
		l.awaitWaiters(was + 1)
	}
	wait(9)
	wait(7)
	wait(6)
	_, _, blocked := l.Gap()
	require.True(t, blocked, "by the waiters")
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 6), put("b", 11, 11, 7))))
	require.NoError(t, <-results)
	require.NoError(t, <-results)
	require.Equal(t, 1, l.waiting())
	wait(8)
	cancel()
	require.ErrorIs(t, <-results, context.Canceled)
	require.ErrorIs(t, <-results, context.Canceled)
	require.Zero(t, l.waiting(), "whoever gives up leaves nothing behind")
	_, _, blocked = l.Gap()
	require.False(t, blocked)
}

func (l *Log) waiting() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.waiters)
}

func (l *Log) awaitWaiters(n int) {
	for l.waiting() != n {
		runtime.Gosched()
	}
}

func TestWaitReached(t *testing.T) {
	l := testLog(t, 2)
	ctx, cancel := bounded()
	require.NoError(t, l.WaitReached(ctx, 0, 10))
	results := make(chan error)
	go func() { results <- l.WaitReached(ctx, 0, 12) }()
	require.NoError(t, l.Append(1, at(12)))
	require.NoError(t, l.Append(0, at(11)))
	require.NoError(t, l.Append(0, at(13)))
	require.NoError(t, <-results)
	go func() { results <- l.WaitReached(ctx, 0, 14) }()
	cancel()
	require.ErrorIs(t, <-results, context.Canceled)
}

func TestFail(t *testing.T) {
	l := testLog(t, 1)
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 6), put("b", 11, 11, 8))))
	advanced := l.Advanced()
	ctx := context.Background()
	results := make(chan error)
	go func() { results <- l.WaitClosed(ctx, 100) }()
	go func() { results <- l.WaitReached(ctx, 0, 100) }()
	l.Fail(nil)
	require.NoError(t, l.Err())

	boom := errors.New("boom")
	l.Fail(boom)
	l.Fail(errors.New("later"))
	for range 2 {
		require.Equal(t, boom, <-results)
	}
	<-advanced
	<-l.Advanced()
	require.Equal(t, boom, l.Err())
	require.Equal(t, boom, l.Append(0, at(12, put("c", 12, 12, 7))))
	require.Equal(t, boom, l.Start(5))
	l.FenceHolds(0, 1, 50, 11)
	require.Equal(t, int64(6), l.Closed(), "a failed log stands still")

	require.NoError(t, l.WaitClosed(ctx, 6), "what was closed stays so")
	evs, next, err := l.Since(6, 0)
	require.NoError(t, err)
	require.Len(t, evs, 1)
	_, _, err = l.Since(next, 0)
	require.Equal(t, boom, err)
}

func TestOutcome(t *testing.T) {
	const epoch, stamp = 1, 8
	landing := at(11, put("a", 11, 11, stamp))
	for _, c := range []struct {
		name string
		revs []MemberRevision
		want Outcome
	}{
		{"put", landing, Outcome{Landed, manifest.Landed, 11}},
		{"delete", at(11, slotRec(stamp), with(del("a", 11), put("a", 3, 3, 3))), Outcome{Landed, manifest.Landed, 11}},
		{"compare", at(11, markRec(0, stamp, manifest.Landed)), Outcome{Landed, manifest.Landed, 11}},
		{
			"exclusive",
			at(11, put("a", 11, 11, stamp), markRec(0, stamp, manifest.Exclusive), fenceRec(epoch, stamp)),
			Outcome{Landed, manifest.Exclusive, 11},
		},
		{"fenced", at(11, markRec(0, stamp, manifest.Fenced)), Outcome{Refused, manifest.Fenced, 11}},
		{"slot ahead", at(11, markRec(0, stamp, manifest.Pinned)), Outcome{Refused, manifest.Pinned, 11}},
		{"surrendered", at(11, markRec(0, stamp, manifest.Surrendered)), Outcome{Refused, manifest.Surrendered, 11}},
		{"behind a fence", at(11, fenceRec(epoch, stamp)), Outcome{Kind: Dead, Rev: 11}},
		{"behind an epoch", at(11, fenceRec(epoch+1, 5)), Outcome{Kind: Dead, Rev: 11}},
		{"landed, then fenced", append(landing, at(12, fenceRec(epoch+1, stamp))...), Outcome{Landed, manifest.Landed, 11}},
		{
			"the number of a later epoch",
			append(at(11, fenceRec(epoch+1, 5)), at(12, put("a", 12, 12, stamp))...),
			Outcome{Kind: Dead, Rev: 12},
		},
		{"not yet", at(11, put("a", 11, 11, stamp+1), fenceRec(epoch, stamp-1)), Outcome{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := testLog(t, 2)
			l.cfg.Doubts.Track(0, epoch, Sent{Stamp: stamp})
			l.cfg.Doubts.Track(1, epoch, Sent{Stamp: stamp}) // nothing shows up here
			ctx, cancel := bounded()
			defer cancel()
			type result struct {
				Outcome
				err error
			}
			before := make(chan result)
			go func() {
				o, err := l.cfg.Doubts.Outcome(ctx, 0, epoch, stamp)
				before <- result{o, err}
			}()
			for i := range c.revs {
				require.NoError(t, l.Append(0, []MemberRevision{clone(c.revs[i])}))
			}
			if c.want.Kind == 0 {
				cancel()
				require.Equal(t, result{err: context.Canceled}, <-before)
				return
			}
			got := <-before
			require.NoError(t, got.err)
			require.Equal(t, c.want.Kind, got.Kind)
			cancel()
			after, err := l.cfg.Doubts.Outcome(ctx, 0, epoch, stamp)
			require.NoError(t, err)
			require.Equal(t, c.want, after)

			_, err = l.cfg.Doubts.Outcome(ctx, 1, epoch, stamp)
			require.ErrorIs(t, err, context.Canceled)
			l.cfg.Doubts.Untrack(0, epoch, stamp)
			_, err = l.cfg.Doubts.Outcome(ctx, 0, epoch, stamp)
			require.ErrorIs(t, err, ErrUntracked)
		})
	}
}

// clone copies what Append would rewrite.
func clone(r MemberRevision) MemberRevision {
	c := MemberRevision{Rev: r.Rev}
	for _, ev := range r.Events {
		n := &mvccpb.Event{Type: ev.Type, Kv: cloneKv(ev.Kv), PrevKv: cloneKv(ev.PrevKv)}
		c.Events = append(c.Events, n)
	}
	return c
}

func cloneKv(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Lease: kv.Lease,
	}
}

// TestOutcomeOfRaise: the answer of a raise kills a stamp as the fence record does.
func TestOutcomeOfRaise(t *testing.T) {
	l := testLog(t, 2)
	l.cfg.Doubts.Track(0, 1, Sent{Stamp: 8})
	results := make(chan Outcome)
	ctx, cancel := bounded()
	defer cancel()
	go func() {
		o, _ := l.cfg.Doubts.Outcome(ctx, 0, 1, 8)
		results <- o
	}()
	l.FenceHolds(0, 1, 8, 12)
	require.NoError(t, l.Append(0, at(11, put("a", 11, 11, 9))))
	require.NoError(t, l.Append(0, at(12)))
	require.Equal(t, Outcome{Kind: Dead, Rev: 12}, <-results)
}

// TestConcurrency lets writers, readers and waiters at one log at once; the race detector does the checking.
func TestConcurrency(t *testing.T) {
	const members, revs, perRev = 3, 400, 4
	l := testLog(t, members)
	last := int64(5 + members*revs*perRev)
	ctx, cancel := bounded()
	defer cancel()
	var writers, readers sync.WaitGroup
	for m := range members {
		writers.Go(func() {
			for i := range int64(revs) {
				rev := 11 + i
				var evs []*mvccpb.Event
				for j := range int64(perRev) {
					stamp := 6 + (i*perRev+j)*members + int64(m)
					evs = append(evs, put(fmt.Sprintf("%d-%d", m, j), rev, rev, stamp))
				}
				l.cfg.Doubts.Track(m, 1, Sent{Stamp: 6 + i*perRev*members + int64(m)})
				if err := l.Append(m, at(rev, evs...)); err != nil {
					t.Error(err)
				}
				if o, err := l.cfg.Doubts.Outcome(ctx, m, 1, 6+i*perRev*members+int64(m)); err != nil || o.Kind != Landed {
					t.Error(o, err)
				}
				l.cfg.Doubts.Untrack(m, 1, 6+i*perRev*members+int64(m))
				l.FenceHolds(m, 1, 6+(i-1)*perRev*members, rev)
			}
		})
		readers.Go(func() {
			for w := int64(5); w < last; {
				advanced := l.Advanced()
				evs, next, err := l.Since(w+1, 50)
				if err != nil || int64(len(evs)) != next-w-1 {
					t.Error("events", len(evs), next, w, err)
					return
				}
				for i, e := range evs {
					if e.Rev != w+1+int64(i) {
						t.Error("out of order")
					}
				}
				if w = next - 1; len(evs) == 0 {
					select {
					case <-advanced:
					case <-ctx.Done():
						t.Error(ctx.Err())
						return
					}
				}
			}
		})
		readers.Go(func() {
			for r := int64(6); r <= last; r += 7 {
				if err := l.WaitClosed(ctx, r); err != nil {
					t.Error(err)
				}
				if _, err := l.Snapshot(r, []int{0, 1, 2}, []byte{0}, []byte{0}); err != nil {
					t.Error(err)
				}
				l.Lo(m, r)
				l.Gap()
				l.Stats()
				l.Position(m)
			}
		})
		readers.Go(func() {
			for rev := int64(11); rev < 11+revs; rev += 3 {
				if err := l.WaitReached(ctx, m, rev); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
	require.Equal(t, last, l.Closed())
}
