package clock_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
)

func TestANewClockStandsAtOne(t *testing.T) {
	c := newWorld(t, 3).open(nil)
	now, epoch, err := c.Read(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, now)
	require.EqualValues(t, 1, epoch)
	require.EqualValues(t, 1, c.Epoch())

	first, epoch, err := c.Take(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, 2, first)
	require.EqualValues(t, 1, epoch)
}

func TestTakeAddsAnyNumber(t *testing.T) {
	c := newWorld(t, 1).open(nil)
	next := int64(2)
	for _, k := range []int64{1, 2, 3, 4, 7, 8, 100, 1000, 2048, clock.MaxTake, 1, clock.MaxTake} {
		first, _, err := c.Take(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, next, first)
		next += k
	}
	for _, k := range []int64{-1, 0, clock.MaxTake + 1} {
		_, _, err := c.Take(t.Context(), k)
		require.Error(t, err)
	}
}

// Stamps are dense and unique over goroutines and processes, and calls that follow each other see each other.
func TestStampsAreDenseUniqueAndInRealTimeOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, 2), within(t)
		slow := etcdfake.Faults{MaxDelay: 3 * time.Millisecond}.Interceptor()
		var ended lastStamp
		cfg := w.config(slow)
		cfg.Highest = ended.get // what others take while an add is under way is no reason for alarm
		clocks := []*clock.Clock{w.openConfig(cfg), w.openConfig(cfg), w.openConfig(cfg)}
		all := newIssued()
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				for range 50 {
					c := clocks[(i+rand.IntN(2))%len(clocks)]
					before := ended.get()
					if rand.IntN(3) == 0 {
						now, _, err := c.Read(ctx)
						require.NoError(t, err)
						require.GreaterOrEqual(t, now, before, "a read missed a stamp that was taken before it began")
						continue
					}
					k := 1 + rand.Int64N(300)
					first, epoch, err := c.Take(ctx, k)
					require.NoError(t, err)
					require.Greater(t, first, before, "a stamp is not above one that was taken before")
					ended.raise(first + k - 1)
					all.add(first, k, epoch)
				}
			})
		}
		wg.Wait()
		require.Empty(t, all.twice)
		require.Len(t, all.epochs, 1)
		for stamp := range int64(len(all.epochs[1])) {
			require.True(t, all.epochs[1][stamp+2], "stamp %d is missing", stamp+2)
		}
	})
}

// lastStamp is the highest stamp of any call that has ended.
type lastStamp struct {
	mu sync.Mutex
	n  int64
}

func (l *lastStamp) get() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *lastStamp) raise(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n = max(l.n, n)
}

// What waits together is answered by few transactions, and an add answers the reads that wait with it.
func TestCallersShareTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var mu sync.Mutex
		sent := map[bool]int{}
		c := w.open(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			mu.Lock()
			sent[etcdfake.Writes(req)]++
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			return do()
		})
		time.Sleep(time.Second) // the fences of a new epoch are raised in the background
		mu.Lock()
		clear(sent)
		mu.Unlock()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _, _, err := c.Take(t.Context(), 1); require.NoError(t, err) })
			wg.Go(func() { _, _, err := c.Read(t.Context()); require.NoError(t, err) })
		}
		wg.Wait()
		require.LessOrEqual(t, sent[true], 2)
		require.LessOrEqual(t, sent[false], 2)
	})
}

func TestLostRequestsAndRepliesOnlyLeaveGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		bad := etcdfake.Faults{MaxDelay: 5 * time.Millisecond, LoseRequest: 0.1, LoseReply: 0.2}.Interceptor()
		clocks := []*clock.Clock{w.open(bad), w.open(bad)}
		all := newIssued()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for range 50 {
					first, epoch, err := clocks[i%2].Take(t.Context(), 3)
					require.NoError(t, err)
					all.add(first, 3, epoch)
					_, _, err = clocks[i%2].Read(t.Context())
					require.NoError(t, err)
				}
			})
		}
		wg.Wait()
		require.Empty(t, all.twice)
		require.Len(t, all.epochs, 1)
	})
}

func TestCallersWaitWhileTheCoordinatorIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		core, logged := observer.New(zap.InfoLevel)
		cfg := w.config(nil)
		cfg.Logger = zap.New(core)
		c := w.openConfig(cfg)
		synctest.Wait()
		w.coordinator.SetDown(true)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := c.Take(ctx, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "etcdfake: down")
		_, _, err = c.Read(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		done := make(chan int64)
		go func() {
			first, _, err := c.Take(t.Context(), 1)
			require.NoError(t, err)
			done <- first
		}()
		time.Sleep(time.Minute)
		w.coordinator.SetDown(false)
		require.EqualValues(t, 2, <-done, "what the first caller abandoned was sent all the same")
		require.Equal(t, 1, logged.FilterMessageSnippet("does not answer").Len())
		require.Equal(t, 1, logged.FilterMessageSnippet("answers again").Len())
	})
}

func TestCloseEndsAllWaiting(t *testing.T) {
	w := newWorld(t, 1)
	c := w.open(nil)
	w.coordinator.SetDown(true)
	var wg sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, _, err := c.Take(context.Background(), 1); return err },
		func() error { _, _, err := c.Read(context.Background()); return err },
		func() error { _, err := c.Sync(context.Background()); return err },
	} {
		wg.Go(func() { require.ErrorIs(t, call(), clock.ErrClosed) })
	}
	c.Close()
	wg.Wait()
	c.Close()
	_, _, err := c.Take(context.Background(), 1)
	require.ErrorIs(t, err, clock.ErrClosed)
}

func TestOpenRetriesUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.members[1].SetDown(true)
		c := clock.New(w.config(nil))
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Open(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "member m1")
		_, _, err = c.Take(t.Context(), 1)
		require.ErrorContains(t, err, "not open")

		go func() {
			time.Sleep(time.Minute)
			w.members[1].SetDown(false)
		}()
		require.NoError(t, c.Open(t.Context()))
		require.NoError(t, c.Open(t.Context()), "opening twice")
		require.EqualValues(t, 1, c.Epoch())
	})
}

func TestOwnCompaction(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.config(nil)
	cfg.CompactEvery = 20
	c := w.openConfig(cfg)
	for range 100 {
		_, _, err := c.Take(t.Context(), 1)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return w.coordinator.Compacted() > 60 }, time.Minute, time.Millisecond)
	w.coordinator.Wipe()
	for range 100 {
		_, _, err := c.Take(t.Context(), 1)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return w.coordinator.Compacted() > 60 }, time.Minute, time.Millisecond)
}

func TestHooks(t *testing.T) {
	w := newWorld(t, 1)
	var added, epochs []int64
	reads := 0
	cfg := w.config(nil)
	cfg.Hooks = clock.Hooks{
		Added:   func(k int64, _ time.Duration) { added = append(added, k) },
		Read:    func(time.Duration) { reads++ },
		Rebuilt: func(epoch, base int64) { epochs = append(epochs, epoch, base) },
	}
	c := w.openConfig(cfg)
	_, _, err := c.Take(t.Context(), 7)
	require.NoError(t, err)
	_, _, err = c.Read(t.Context())
	require.NoError(t, err)
	c.Close()
	require.Equal(t, []int64{7}, added)
	require.Equal(t, 1, reads)
	require.Equal(t, []int64{1, 1}, epochs)
}

func TestForeignCoordinatorsAreRefused(t *testing.T) {
	for _, key := range []string{"\x00", "\x00clock", "\x00metaetcd", "\x00metaetcd0", "\x00topology", "a", "\xff"} {
		w := newWorld(t, 1)
		_, err := w.coordinator.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(key)})
		require.NoError(t, err)
		before := w.coordinator.Revision()
		c := clock.New(w.config(nil))
		defer c.Close()
		var foreign *clock.ForeignCoordinatorError
		require.ErrorAs(t, c.Open(t.Context()), &foreign)
		require.Equal(t, key, string(foreign.Key))
		require.Equal(t, before, w.coordinator.Revision(), "something was written")
	}
}

func TestTheCoordinatorOfAnotherMetaClusterIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	w.open(nil)
	cfg := w.config(nil)
	cfg.ClusterID = 0xbad
	c := clock.New(cfg)
	defer c.Close()
	before := w.coordinator.Revision()
	var foreign *clock.ForeignCoordinatorError
	require.ErrorAs(t, c.Open(t.Context()), &foreign)
	require.EqualValues(t, clusterID, foreign.Cluster)
	require.Equal(t, before, w.coordinator.Revision(), "something was written")
}

func TestAWrongCoordinatorIsNotALostOne(t *testing.T) {
	w := newWorld(t, 1)
	wrong := etcdfake.New(0xbad)
	cfg := w.config(nil)
	right := cfg.Coordinator
	away := &switching{KVClient: right}
	cfg.Coordinator = away
	c := w.openConfig(cfg)
	away.set(wrong.Client(nil))
	for range 3 {
		var e *clock.WrongCoordinatorError
		_, _, err := c.Take(t.Context(), 1)
		require.ErrorAs(t, err, &e)
		require.Equal(t, clock.WrongCoordinatorError{Want: coordinatorID, Got: 0xbad}, *e)
		_, _, err = c.Read(t.Context())
		require.ErrorAs(t, err, &e)
		_, err = c.Sync(t.Context())
		require.ErrorAs(t, err, &e)
	}
	require.Empty(t, wrong.Keys(), "the wrong coordinator was written to")
	away.set(right)
	_, epoch, err := c.Take(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, epoch)
}

// switching is a client that can be pointed elsewhere.
type switching struct {
	mu sync.Mutex
	pb.KVClient
}

func (s *switching) set(kv pb.KVClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.KVClient = kv
}

func (s *switching) Txn(ctx context.Context, req *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	s.mu.Lock()
	kv := s.KVClient
	s.mu.Unlock()
	return kv.Txn(ctx, req, opts...)
}
