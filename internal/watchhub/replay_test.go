package watchhub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// TestReplaysAreShared: history is read once for all watchers of a stream that lack the same of it, whatever they watch; but once for each
// single key that is watched, and where that is refused, once for all of them.
func TestReplaysAreShared(t *testing.T) {
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprintf("keys alone: %v", alone), func(t *testing.T) { sharedReplays(t, alone) })
	}
}

func sharedReplays(t *testing.T, alone bool) {
	synctest.Test(t, func(t *testing.T) {
		const watchers, events, keys = 100, 30, 10
		f := setup(t, Options{})
		f.src.noKeys = !alone
		c := f.open()
		for i := range watchers {
			req := &pb.WatchCreateRequest{WatchId: int64(i), Key: fmt.Append(nil, "k", i%keys)}
			if i%3 == 0 {
				req.Key, req.RangeEnd = []byte("k"), []byte("l")
			}
			c.watch(req)
		}
		f.src.set(func(f *fakeSource) { f.held = true })
		for range events {
			f.src.commit(put("k0", "v"), put("k1", "v"), put("other", "v"))
		}
		f.src.set(func(f *fakeSource) { f.floor = events + 2 })
		f.src.release()
		synctest.Wait()
		got := map[int64]int{}
		want := 0
		for i := range watchers {
			switch {
			case i%3 == 0:
				want += 2 * events
			case i%keys < 2:
				want += events
			}
		}
		for n := 0; n < want; {
			r := c.recv()
			n += len(r.Events)
			got[r.WatchId] += len(r.Events)
		}
		for i := range watchers {
			switch {
			case i%3 == 0:
				require.Equal(t, 2*events, got[int64(i)])
			case i%keys < 2:
				require.Equal(t, events, got[int64(i)])
			default:
				require.Zero(t, got[int64(i)])
			}
		}
		require.EqualValues(t, events+1, c.progress())
		want = 2
		if alone {
			want = 1 + keys
		}
		replays := f.src.count(func(f *fakeSource) int { return f.replays })
		require.GreaterOrEqual(t, replays, want-1)
		require.LessOrEqual(t, replays, want+1, "who comes while one has just begun makes another one")
	})
}

// TestReplaysWaitForNobodyFar: a watcher that lacks little is not kept waiting for one that lacks much.
func TestReplaysWaitForNobodyFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 4 * pieceEvents
		f := setup(t, Options{})
		for range events {
			f.src.commit(put("k", "v"))
		}
		release := make(chan struct{})
		f.src.set(func(f *fakeSource) {
			f.floor = events + 2
			f.replay = func(from int64) error {
				if from < events {
					<-release
				}
				return nil
			}
		})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{WatchId: 1, Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2})
		c.watch(&pb.WatchCreateRequest{WatchId: 2, Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: events})
		r := c.recv()
		require.EqualValues(t, 2, r.WatchId)
		require.Len(t, r.Events, 2)
		close(release)
		for n := 0; n < events; {
			r := c.recv()
			require.EqualValues(t, 1, r.WatchId)
			n += len(r.Events)
		}
	})
}

// TestReplaysAreFew: those who lack very different parts of history do not all have it read at once, and progress waits for all of them.
func TestReplaysAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const watchers, events = 3 * maxReplays, 8 * 3 * maxReplays * pieceEvents
		f := setup(t, Options{})
		for range events {
			f.src.commit(put("k", ""))
		}
		release := make(chan struct{})
		f.src.set(func(f *fakeSource) {
			f.floor = events + 2
			f.replay = func(int64) error { <-release; return nil }
		})
		c := f.open()
		got := c.background()
		want := 0
		for i := range watchers {
			lacks := int64(events - i*events/watchers)
			want += int(lacks)
			c.send(createReq(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: events + 2 - lacks, WatchId: int64(i + 1)}))
		}
		c.send(progressReq())
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, maxReplays, f.src.count(func(f *fakeSource) int { return f.replays }))
		close(release)
		n := 0
		for r := range got {
			if isProgress(r) {
				require.EqualValues(t, events+1, r.Header.Revision)
				break
			}
			n += len(r.Events)
		}
		require.Equal(t, want, n, "the answer comes last")
	})
}

// TestCompactionEndsOnlyWhoItPassed: of those that history is read for together, the ones that lack nothing of what is gone go on.
func TestCompactionEndsOnlyWhoItPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		for range 9 {
			f.src.commit(put("k", "v"))
		}
		f.src.set(func(f *fakeSource) {
			f.floor = 11
			f.replay = func(from int64) error {
				if from == 2 {
					f.set(func(f *fakeSource) { f.compacted = 5 })
				}
				return nil
			}
		})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{WatchId: 1, Key: []byte("k"), StartRevision: 2})
		c.watch(&pb.WatchCreateRequest{WatchId: 2, Key: []byte("k"), StartRevision: 5})
		got, ended := 0, false
		for got < 6 || !ended {
			r := c.recv()
			if r.Canceled {
				require.EqualValues(t, 1, r.WatchId)
				require.EqualValues(t, 5, r.CompactRevision)
				ended = true
			} else if r.WatchId == 2 {
				got += len(r.Events)
			}
		}
		require.EqualValues(t, 10, c.progress())
	})
}

// TestNobodyWhoIsThereReadsHistory: a source that keeps what it was not told to be needless spares every watcher that came in time the
// reading of history, however slowly it is read, and hears of it when somebody goes on, or away.
func TestNobodyWhoIsThereReadsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 500
		f := setup(t, Options{QueueBytes: 4 << 10})
		slow, gone, fast := f.open(), f.open(), f.open()
		for _, c := range []*client{slow, gone, fast} {
			for i := range 5 {
				c.watch(&pb.WatchCreateRequest{WatchId: int64(i), Key: []byte("k"), RangeEnd: []byte("l")})
			}
		}
		evict := func() { f.src.set(func(f *fakeSource) { f.floor = min(f.needed, f.closed+1) }) }
		needed := func() int64 { return int64(f.src.count(func(f *fakeSource) int { return int(f.needed) })) }
		for range events {
			f.src.commit(put("k", strings.Repeat("v", 100)))
			require.Len(t, fast.events(5), 5)
			synctest.Wait()
			evict()
		}
		require.Less(t, needed(), int64(events), "there are some who do not read")
		at := needed()
		gone.cancel()
		for n := 0; n < 5*events; {
			n += len(slow.recv().Events)
			synctest.Wait()
			require.GreaterOrEqual(t, needed(), at)
			at = needed()
			evict()
		}
		synctest.Wait()
		require.EqualValues(t, events+2, needed(), "everybody has everything")
		require.Zero(t, f.src.count(func(f *fakeSource) int { return f.replays }))
		f.hub.mu.Lock()
		defer f.hub.mu.Unlock()
		require.Empty(t, f.hub.behind)
	})
}

func TestHull(t *testing.T) {
	for _, c := range []struct{ a, b, want keyrange.Range }{
		{keyrange.Of([]byte("a"), nil), keyrange.Of([]byte("a"), nil), keyrange.Of([]byte("a"), nil)},
		{keyrange.Of([]byte("b"), nil), keyrange.Of([]byte("a"), nil), keyrange.Of([]byte("a"), []byte("b\x00"))},
		{keyrange.Of([]byte("a"), []byte("c")), keyrange.Of([]byte("b"), nil), keyrange.Of([]byte("a"), []byte("c"))},
		{keyrange.Of([]byte("a"), []byte("c")), keyrange.Of([]byte("c"), nil), keyrange.Of([]byte("a"), []byte("c\x00"))},
		{keyrange.Of([]byte("a"), []byte("c")), keyrange.Of([]byte("b"), []byte("d")), keyrange.Of([]byte("a"), []byte("d"))},
		{keyrange.Of([]byte("a"), []byte("c")), keyrange.From([]byte("b")), keyrange.From([]byte("a"))},
		{keyrange.From([]byte("b")), keyrange.Of([]byte("c"), nil), keyrange.From([]byte("b"))},
	} {
		require.Equal(t, c.want, hull(c.a, c.b))
		require.Equal(t, c.want, hull(c.b, c.a))
	}
}
