package watchhub

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestProgressRequest(t *testing.T) {
	synctest.Test(t, testProgressRequest)
}

func testProgressRequest(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	c.send(progressReq()) // with nobody to tell, it is dropped, as in etcd
	synctest.Wait()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	c.watch(&pb.WatchCreateRequest{Key: []byte("l")})
	require.EqualValues(t, 1, c.progress())
	f.src.commit(put("other", "1"))
	require.EqualValues(t, 2, c.progress(), "also of what nobody watches")
	f.src.commit(put("k", "1"))
	c.send(progressReq())
	require.Equal(t, []string{"PUT k=1"}, c.events(1))
	require.EqualValues(t, 3, c.progressAnswer())
}

// TestProgressWaitsForTheFuture: an announcement below a watcher's start would make its client resume there.
func TestProgressWaitsForTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 3, WatchId: 1})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 99, WatchId: 2})
		got := c.background()
		c.send(progressReq())
		f.src.commit(put("l", "2"))
		synctest.Wait()
		require.Empty(t, got)
		f.src.commit(put("l", "3"))
		synctest.Wait()
		require.Empty(t, got)
		c.send(cancelReq(2))
		require.True(t, (<-got).Canceled)
		r := <-got
		require.True(t, isProgress(r))
		require.EqualValues(t, 3, r.Header.Revision)
	})
}

// background receives into a channel until the stream ends.
func (c *client) background() <-chan *pb.WatchResponse {
	got := make(chan *pb.WatchResponse, 1024)
	go func() {
		defer close(got)
		for {
			r, err := c.cs.Recv()
			if err != nil {
				return
			}
			got <- r
		}
	}()
	return got
}

// TestProgressUnderLoad: with a log that never rests, every request is answered, at or above what was closed when it
// was made, and never ahead of an event; with a queue that is always full, and with one that never is.
func TestProgressUnderLoad(t *testing.T) {
	for _, queueBytes := range []int{500, 0} {
		t.Run(fmt.Sprint("queue=", queueBytes), func(t *testing.T) {
			f := setup(t, Options{QueueBytes: queueBytes})
			stop := make(chan struct{})
			var writer sync.WaitGroup
			c := f.open()
			const watchers = 3
			for range watchers {
				c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
			}
			writer.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						f.src.commit(put("k", fmt.Sprint(i)))
						time.Sleep(5 * time.Microsecond)
					}
				}
			})
			defer writer.Wait()
			defer close(stop)
			seen := map[int64]int64{}
			for range 200 {
				f.checkProgress(c, seen, watchers)
			}
		})
	}
}

// checkProgress asks for progress on a stream whose watchers see every revision; seen is what came so far.
func (f *fixture) checkProgress(c *client, seen map[int64]int64, watchers int64) {
	asked := f.src.Closed()
	c.send(progressReq())
	for {
		r := c.recv()
		for _, ev := range r.Events {
			if last := seen[r.WatchId]; last != 0 {
				require.Equal(f.t, last+1, ev.Kv.ModRevision)
			}
			seen[r.WatchId] = ev.Kv.ModRevision
		}
		if isProgress(r) {
			require.GreaterOrEqual(f.t, r.Header.Revision, asked)
			for id := range watchers { // below what it has seen, a client would resume too early
				require.Equal(f.t, r.Header.Revision, max(seen[id], 1))
			}
			return
		}
	}
}

func TestProgressOfWatchersBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const watchers = 8
		f := setup(t, Options{})
		for i := range 5 {
			f.src.commit(put("k", fmt.Sprint(i)))
		}
		release := make(chan struct{})
		f.src.set(func(f *fakeSource) {
			f.floor = 5
			f.replay = func(from int64) error {
				if from == 4 {
					<-release
				}
				return nil
			}
		})
		c := f.open()
		got := c.background()
		for i := range watchers {
			c.send(createReq(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2, WatchId: int64(i + 1)}))
		}
		c.send(progressReq())
		synctest.Wait()
		for len(got) > 0 {
			require.False(t, isProgress(<-got))
		}
		close(release)
		for r := range got {
			if isProgress(r) {
				require.EqualValues(t, 6, r.Header.Revision)
				break
			}
		}
		synctest.Wait()
		require.Empty(t, got, "the answer comes last")
		_, lagging, events := f.hub.Stats()
		require.Zero(t, lagging)
		require.EqualValues(t, 5*watchers, events)
	})
}

// TestProgressNotify runs on fake time, with etcd's own interval.
func TestProgressNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		c := f.openFor(3 * time.Hour)
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true, WatchId: 1})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 2})
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true, StartRevision: 10, WatchId: 3})
		got := c.background()
		f.src.commit(put("l", "2"))
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		require.Empty(t, got)
		time.Sleep(2*time.Minute + time.Second) // the jitter is at most a minute
		r := <-got
		require.True(t, isProgress(r))
		require.EqualValues(t, 1, r.WatchId)
		require.EqualValues(t, 2, r.Header.Revision)
		require.Empty(t, got)

		f.src.commit(put("k", "3"))
		require.NotEmpty(t, (<-got).Events)
		require.NotEmpty(t, (<-got).Events)
		time.Sleep(9*time.Minute + 58*time.Second)
		synctest.Wait()
		require.Empty(t, got, "an event stands for the next notification")
		time.Sleep(13 * time.Minute)
		synctest.Wait()
		require.Len(t, got, 1)
		require.EqualValues(t, 3, (<-got).Header.Revision)
	})
}
