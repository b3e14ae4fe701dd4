package watchhub

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestStalledConsumer: one stream does not read; the other sees everything at once, and memory stays bounded.
func TestStalledConsumer(t *testing.T) {
	const limit, value, events = 16 << 10, 1 << 10, 2000
	f := setup(t, Options{QueueBytes: limit})
	stalled, other := f.open(), f.open()
	const watchers = 10
	for range watchers {
		stalled.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	}
	f.hub.mu.Lock()
	q := &f.hub.synced.all()[0].stream.queue
	f.hub.mu.Unlock()
	other.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	for i := range events {
		f.src.commit(put("k", strings.Repeat("v", value)))
		r := other.recv()
		require.EqualValues(t, i+2, r.Events[0].Kv.ModRevision)
		require.LessOrEqual(t, q.bytes.Load(), int64(limit))
	}
	_, lagging, _ := f.hub.Stats()
	require.Equal(t, watchers, lagging)
	q.mu.Lock()
	require.Less(t, len(q.items), 300)
	q.mu.Unlock()

	next := map[int64]int64{}
	for n := 0; n < watchers*events; {
		r := stalled.recv()
		for _, ev := range r.Events {
			require.Equal(t, next[r.WatchId]+2, ev.Kv.ModRevision)
			next[r.WatchId]++
			n++
		}
	}
	require.EqualValues(t, events+1, stalled.progress())
	eventually(t, func() bool { _, lagging, _ := f.hub.Stats(); return lagging == 0 }, "all should be synced again")
	f.src.commit(put("k", "end"))
	require.Len(t, stalled.events(watchers), watchers)
}

func TestHistoryOlderThanMemory(t *testing.T) {
	f := setup(t, Options{})
	for i := range 100 {
		f.src.commit(put("k", fmt.Sprint(i)), put("l", fmt.Sprint(i)))
	}
	f.src.set(func(f *fakeSource) { f.floor = 70 })
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 50})
	for i := 48; i < 100; {
		r := c.recv()
		for _, ev := range r.Events {
			require.Equal(t, fmt.Sprint(i), string(ev.Kv.Value))
			i++
		}
	}
	require.EqualValues(t, 101, c.progress())
	require.Equal(t, 1, f.src.count(func(f *fakeSource) int { return f.replays }))
}

// TestReplayDelaysNobody: while history is read for one watcher, the others of its stream go on.
func TestReplayDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		f.src.commit(put("k", "2"))
		f.src.commit(put("k", "3"))
		release := make(chan struct{})
		f.src.set(func(f *fakeSource) {
			f.floor = 4
			f.replay = func(int64) error { <-release; return nil }
		})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2, WatchId: 1})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 2})
		f.src.commit(put("k", "4"))
		r := c.recv()
		require.EqualValues(t, 2, r.WatchId)
		require.Equal(t, []string{"PUT k=4"}, show(r))
		close(release)
		require.Equal(t, []string{"PUT k=2", "PUT k=3", "PUT k=4"}, c.events(3))
	})
}

func TestReplayIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		f := setup(t, Options{Logger: zap.New(core)})
		f.src.commit(put("k", "2"))
		f.src.commit(put("k", "3"))
		failures := 0
		f.src.set(func(f *fakeSource) {
			f.floor = 4
			f.replay = func(from int64) error {
				if from == 3 && failures < 3 {
					failures++
					return errBoom
				}
				return nil
			}
		})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2})
		began := time.Now()
		require.Equal(t, []string{"PUT k=2", "PUT k=3"}, c.events(2), "nothing is lost or doubled")
		require.Equal(t, gatherReplay+7*replayPause, time.Since(began))
		synctest.Wait()
		require.Len(t, logs.FilterMessageSnippet("reading history").All(), 1, "an outage is told once")
		require.Len(t, logs.FilterMessageSnippet("can be read again").All(), 1)
	})
}

func TestReplayOvertakenByCompaction(t *testing.T) {
	f := setup(t, Options{})
	for range 5 {
		f.src.commit(put("k", "v"))
	}
	f.src.set(func(f *fakeSource) {
		f.floor = 6
		f.replay = func(from int64) error {
			if from == 3 {
				f.set(func(f *fakeSource) { f.compacted = 5 })
			}
			return nil
		}
	})
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2})
	require.Len(t, c.events(2), 2)
	r := c.recv()
	require.True(t, r.Canceled)
	require.EqualValues(t, 5, r.CompactRevision)
}

func TestReplayCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		f.src.commit(put("k", "2"))
		f.src.commit(put("k", "3"))
		f.src.set(func(f *fakeSource) {
			f.floor = 4
			f.replay = func(int64) error { return errBoom }
		})
		c := f.open()
		for range maxReplays + 2 {
			c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2})
		}
		for i := range maxReplays + 1 {
			c.send(cancelReq(int64(i)))
			require.True(t, c.recv().Canceled)
		}
		f.src.set(func(f *fakeSource) { f.replay = nil })
		require.Equal(t, []string{"PUT k=2", "PUT k=3"}, c.events(2), "the cancelled ones made room")
		synctest.Wait()
		watchers, lagging, _ := f.hub.Stats()
		require.Equal(t, []int{1, 0}, []int{watchers, lagging})
	})
}

// TestDispatcherOverrun: the log's memory overtakes even the dispatcher.
func TestDispatcherOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 4, WatchId: 2})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 6, WatchId: 3})
		synctest.Wait()
		f.src.set(func(f *fakeSource) { f.held = true })
		for i := 2; i < 6; i++ {
			f.src.commit(put("k", fmt.Sprint(i)))
		}
		f.src.set(func(f *fakeSource) { f.floor = 5 })
		f.src.release()
		synctest.Wait()
		f.src.commit(put("k", "6"))
		got := map[int64][]string{}
		for n := 0; n < 9; {
			r := c.recv()
			got[r.WatchId] = append(got[r.WatchId], show(r)...)
			n += len(r.Events)
		}
		require.Equal(t, map[int64][]string{
			1: {"PUT k=2", "PUT k=3", "PUT k=4", "PUT k=5", "PUT k=6"},
			2: {"PUT k=4", "PUT k=5", "PUT k=6"},
			3: {"PUT k=6"},
		}, got)
	})
}

// TestJoin: a watcher joins only where the dispatcher has not been yet.
func TestJoin(t *testing.T) {
	f := setup(t, Options{})
	f.src.set(func(f *fakeSource) { f.closed = 5 })
	require.True(t, f.hub.skip())
	require.EqualValues(t, 5, f.hub.position.Load())
	s := &stream{queue: newQueue(1), hub: f.hub, lagging: newIndex(), fell: fell{lowest: none}}
	cursors := map[int64]bool{4: false, 5: false, 6: true, 7: true, 1: false}
	for cursor := range cursors {
		s.fallBehind(&watcher{stream: s, key: []byte("k"), id: cursor}, cursor)
	}
	gone := &watcher{stream: s, key: []byte("k"), id: 8}
	s.fallBehind(gone, 8)
	gone.gone.Store(true)
	s.behind = f.hub.join(s, s.behind)
	require.Len(t, s.behind, 3)
	require.Equal(t, 3, s.lagging.len())
	for _, w := range s.behind {
		require.False(t, cursors[w.id])
		require.True(t, w.sender.behind)
	}
	for _, w := range f.hub.synced.all() {
		require.True(t, cursors[w.id])
		require.Equal(t, w.id, w.next)
		require.False(t, w.sender.behind)
	}
	require.Equal(t, 2, f.hub.synced.len())
}

// TestLargeBacklogIsSplitBetweenRevisions: no response grows with the backlog, none splits a revision, and the header
// of none promises more than was sent.
func TestLargeBacklogIsSplitBetweenRevisions(t *testing.T) {
	const limit = 4 << 10
	f := setup(t, Options{MaxRequestBytes: limit})
	for range 100 {
		f.src.commit(put("k1", strings.Repeat("v", 1000)), put("k2", strings.Repeat("v", 500)))
	}
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2})
	for n := 0; n < 200; {
		r := c.recv()
		n += len(r.Events)
		require.Zero(t, len(r.Events)%2)
		require.LessOrEqual(t, len(r.Events), 4)
		require.EqualValues(t, 1+n/2, r.Header.Revision)
	}
}

func TestFragmentsOfOneRevision(t *testing.T) {
	const limit = 1 << 10
	f := setup(t, Options{MaxRequestBytes: limit})
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), Fragment: true})
	whole := f.open()
	whole.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	var ops []op
	for i := range 10 {
		ops = append(ops, put(fmt.Sprint("k", i), string(bytes.Repeat([]byte("v"), 300))))
	}
	f.src.commit(ops...)
	var keys []string
	fragments := 0
	for more := true; more; fragments++ {
		r := c.recv()
		more = r.Fragment
		for _, ev := range r.Events {
			keys = append(keys, string(ev.Kv.Key))
		}
	}
	require.Equal(t, []string{"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"}, keys)
	require.Equal(t, 4, fragments)
	r := whole.recv()
	require.Len(t, r.Events, 10)
	require.False(t, r.Fragment)
}

func TestSourceFails(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want error
		code codes.Code
	}{
		"text":      {err: errBoom, code: codes.FailedPrecondition},
		"status":    {err: rpctypes.ErrGRPCStopped, want: rpctypes.ErrGRPCStopped, code: codes.Unavailable},
		"compacted": {err: fmt.Errorf("restart: %w", &CompactedError{Rev: 7}), want: errOvertaken, code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, Options{})
			c := f.open()
			c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
			c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 7}) // lacks nothing
			f.src.fail(tc.err)
			if name == "compacted" {
				r := c.recv()
				require.True(t, r.Canceled)
				require.Zero(t, r.WatchId)
				require.EqualValues(t, 7, r.CompactRevision)
			}
			for _, c := range []*client{c, f.open()} {
				_, err := c.cs.Recv()
				require.Equal(t, tc.code, status.Code(err))
				if tc.want != nil {
					require.Equal(t, tc.want, err)
				} else {
					require.ErrorContains(t, err, tc.err.Error())
				}
			}
		})
	}
}

// A watcher whose creation is under way when the source ends is not looked at (a test for the race detector).
func TestSourceFailsWhileWatchersAreCreated(t *testing.T) {
	for range 50 {
		f := setup(t, Options{})
		c := f.open()
		go f.src.fail(&CompactedError{Rev: 7})
		for i := range int64(20) {
			if c.cs.Send(createReq(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: i, StartRevision: 7})) != nil {
				break
			}
		}
		for err := error(nil); err == nil; {
			var r *pb.WatchResponse
			if r, err = c.cs.Recv(); err == nil {
				require.True(t, r.Created)
			} else {
				require.Equal(t, errOvertaken, err)
			}
		}
	}
}

func TestClose(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	f.hub.Close()
	f.hub.Close()
	_, err := c.cs.Recv()
	require.Equal(t, ErrClosed, err)
}
