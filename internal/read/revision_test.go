package read_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/read"
	"github.com/metaetcd/metaetcd/internal/record"
)

// TestALinearizableReadWaitsForTheClosedRevision: what was stamped before it may have been acknowledged, so it waits until nothing
// below the clock's reading can land any more.
func TestALinearizableReadWaitsForTheClosedRevision(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.put(w.Key(0, 0), "old")
		thaw := w.Gates[1].Freeze(etcdfake.Writes)
		put := w.begin(w.Key(1, 0), "new")
		done := w.ask(everything())
		require.Empty(t, done)
		thaw()
		got := <-done
		require.ElementsMatch(t, []string{"old", "new"}, got.values(t))
		require.GreaterOrEqual(t, got.Header.Revision, put())
	})
}

// TestASerializableReadCoversWhatWasTold: it covers what this process has acknowledged, though that is not closed, and the coordinator is away.
func TestASerializableReadCoversWhatWasTold(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		thaw := w.Gates[1].Freeze(nil)
		put := w.begin(w.Key(1, 0), "held")
		told := w.put(w.Key(0, 0), "told")
		require.Less(t, w.Feeds.Closed(), told, "the other member holds up the closed revision")
		clock := w.Cluster.Clock.Freeze(nil)
		r := get(w.Key(0, 0))
		r.Serializable = true
		got := <-w.ask(r)
		require.Equal(t, []string{"told"}, got.values(t))
		require.GreaterOrEqual(t, got.Header.Revision, told)
		require.Empty(t, w.ask(get(w.Key(0, 0))), "a linearizable one needs the coordinator")
		clock()
		thaw()
		put()
	})
}

func TestAReadAtARevision(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		first, second := w.put(key, "1"), w.put(key, "2")
		at := func(rev int64, serializable bool) answer {
			r := get(key)
			r.Revision, r.Serializable = rev, serializable
			return <-w.ask(r)
		}
		for _, serializable := range []bool{false, true} {
			got := at(first, serializable)
			require.Equal(t, []string{"1"}, got.values(t))
			require.GreaterOrEqual(t, got.Header.Revision, second, "the header is of the present")
			require.Equal(t, []string{"2"}, at(second, serializable).values(t))
			require.ErrorIs(t, at(second+1, serializable).err, rpctypes.ErrGRPCFutureRev)
		}
		w.Feeds.Compacted.Raise(second)
		for _, serializable := range []bool{false, true} {
			got := at(first, serializable)
			require.ErrorIs(t, got.err, rpctypes.ErrGRPCCompacted)
			require.ErrorAs(t, got.err, new(read.AskedError), "it is the request's own fault")
			require.Equal(t, []string{"2"}, at(second, serializable).values(t), "what it was compacted at stays")
		}
	})
}

// TestBeingBehindIsNoError: a compaction that the request did not ask for has overtaken this process, which catches up and reads again.
func TestBeingBehindIsNoError(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		calls := 0
		err := w.Reads.Serve(t.Context(), func(*feed.Feed) error {
			if calls++; calls == 1 {
				return rpctypes.ErrGRPCCompacted
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		calls = 0
		err = w.Reads.Serve(t.Context(), func(*feed.Feed) error {
			calls++
			return read.Asked(rpctypes.ErrGRPCCompacted, true)
		})
		require.ErrorIs(t, err, rpctypes.ErrGRPCCompacted)
		require.Equal(t, 1, calls)
	})
}

// TestAMemberThatIsAwayDoesNotStopReadsOfOthers: the key's member is asked alone, after a while, but never before the clock has answered:
// a stamp is what makes the read linearizable.
func TestAMemberThatIsAwayDoesNotStopReadsOfOthers(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.put(w.Key(0, 0), "v")
		thaw := w.Gates[1].Freeze(nil)
		put := w.begin(w.Key(1, 0), "held")
		clock := w.Cluster.Clock.Freeze(nil)
		done := w.ask(get(w.Key(0, 0)))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Empty(t, done, "the clock has not answered")
		clock()
		began := time.Now()
		got := <-done
		require.Equal(t, []string{"v"}, got.values(t))
		require.GreaterOrEqual(t, time.Since(began), 250*time.Millisecond)
		require.Less(t, w.Feeds.Closed(), got.Header.Revision, "it did not wait for the other member")
		thaw()
		put()
	})
}

// TestAReadingOfAClockThatWasRebuilt: a clock that was rebuilt may never come to a reading of its predecessor.
func TestAReadingOfAClockThatWasRebuilt(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		w.put(key, "v")
		_, old, err := w.Engine.Clock.Take(t.Context(), 1000) // by somebody who dies
		require.NoError(t, err)
		for _, g := range w.Gates { // nobody can close what it has taken
			g.Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				if raises(req, old) {
					return nil, etcdfake.ErrLost
				}
				return do()
			})
		}
		done := w.ask(everything())
		require.Empty(t, done)
		w.Coordinator.Wipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		select {
		case got := <-done:
			require.Equal(t, []string{"v"}, got.values(t))
			require.NotEqual(t, uint64(old), got.Header.RaftTerm)
		case <-ctx.Done():
			require.Fail(t, "it waits for a reading of the old clock")
		}
	})
}

// raises reports whether a request raises a fence in an epoch.
func raises(req proto.Message, epoch int64) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, op := range txn.GetSuccess() {
		if p := op.GetRequestPut(); p != nil && string(p.Key) == record.KeyFence {
			e, _, err := record.ParsePair(p.Value)
			return err == nil && e == epoch
		}
	}
	return false
}
