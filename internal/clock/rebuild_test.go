package clock_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
)

// The coordinator is wiped again and again while several processes take stamps and land them.
func TestWipesUnderLoad(t *testing.T) {
	for round := range 20 {
		t.Run(fmt.Sprint(round), func(t *testing.T) { synctest.Test(t, wipesUnderLoad) })
	}
}

func wipesUnderLoad(t *testing.T) {
	w := newWorld(t, 1+rand.IntN(4))
	net := etcdfake.Faults{
		MaxDelay:    time.Duration(1+rand.IntN(20)) * time.Millisecond,
		LoseRequest: 0.1 * rand.Float64(), LoseReply: 0.1 * rand.Float64(),
	}
	h := &history{issued: newIssued(), landed: map[int64]int64{}}
	var clocks []*clock.Clock
	for range 1 + rand.IntN(4) {
		cfg := w.config(net.Interceptor())
		cfg.Highest = h.highest
		clocks = append(clocks, w.openConfig(cfg))
	}
	wiping, stop := context.WithCancel(t.Context())
	var wiper, writers sync.WaitGroup
	wiper.Go(func() {
		for wiping.Err() == nil {
			// Long enough for some rebuilding to come to its end on the slowest net: it takes a dozen requests.
			time.Sleep(time.Duration(50+rand.IntN(500)) * time.Millisecond)
			w.coordinator.Wipe()
		}
	})
	for i := range 8 {
		writers.Go(func() { h.write(t, w, clocks[i%len(clocks)]) })
	}
	writers.Wait()
	stop()
	wiper.Wait()
	h.check(t)
}

// history is what processes took from the clock, and what of it landed.
type history struct {
	*issued

	mu     sync.Mutex
	landed map[int64]int64 // stamp -> epoch
	top    int64
	twice  []string
}

func (h *history) highest() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.top
}

// write takes stamps and lands them a little later; where it may not, it syncs.
func (h *history) write(t *testing.T, w *world, c *clock.Clock) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for range 40 {
		k := 1 + rand.Int64N(20)
		first, epoch, err := c.Take(ctx, k)
		require.NoError(t, err)
		h.add(first, k, epoch)
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		stamp := first + rand.Int64N(k)
		landed := w.land(rand.IntN(len(w.members)), epoch, stamp)
		if landed {
			h.land(epoch, stamp)
			continue
		}
		before := c.Epoch()
		after, err := c.Sync(ctx)
		require.NoError(t, err)
		require.GreaterOrEqual(t, after, before)
	}
}

func (h *history) land(epoch, stamp int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, ok := h.landed[stamp]; ok {
		h.twice = append(h.twice, fmt.Sprintf("%d in epochs %d and %d", stamp, other, epoch))
	}
	h.landed[stamp] = epoch
	h.top = max(h.top, stamp)
}

// check demands that all stamps of an epoch are above all that landed in older ones.
func (h *history) check(t *testing.T) {
	require.Empty(t, h.issued.twice, "issued twice")
	require.Empty(t, h.twice, "landed twice")
	highest := map[int64]int64{} // of an epoch
	for stamp, epoch := range h.landed {
		highest[epoch] = max(highest[epoch], stamp)
	}
	for epoch, stamps := range h.epochs {
		lowest := slices.Min(slices.Collect(maps.Keys(stamps)))
		for older, landed := range highest {
			require.True(t, older >= epoch || landed < lowest,
				"epoch %d issued %d, and epoch %d had landed %d", epoch, lowest, older, landed)
		}
	}
}

// hold lets the first request that matches pass, and holds its answer back until release is called.
type hold struct {
	match    func(proto.Message) bool
	armed    atomic.Bool
	reached  chan struct{}
	released chan struct{}
	release  func()
}

func newHold(match func(proto.Message) bool) *hold {
	h := &hold{match: match, reached: make(chan struct{}), released: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.released) })
	return h
}

func (h *hold) intercept(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	resp, err := do()
	if h.match(req) && h.armed.CompareAndSwap(true, false) {
		close(h.reached)
		<-h.released
	}
	return resp, err
}

func readsFence(req proto.Message) bool {
	r, ok := req.(*pb.RangeRequest)
	return ok && string(r.Key) == record.KeyFence
}

func readsClock(req proto.Message) bool {
	r, ok := req.(*pb.TxnRequest)
	if !ok || etcdfake.Writes(req) {
		return false
	}
	for _, op := range r.Success {
		if string(op.GetRequestRange().GetKey()) == record.KeyClock {
			return true
		}
	}
	return false
}

// A process that read the members' epochs before the coordinator was lost again must not claim what was claimed since.
func TestAnEpochIsNeverClaimedTwice(t *testing.T) {
	w := newWorld(t, 1)
	h := newHold(readsFence)
	slow, fast := w.open(h.intercept), w.open(nil)
	defer h.release()
	require.Eventually(t, func() bool { // the first clock's own raise behind its creation reads fences as well
		_, f, err := record.ParsePair(w.members[0].Get(record.KeyFence))
		return err == nil && f == 1
	}, time.Minute, time.Millisecond)
	w.coordinator.Wipe()
	h.armed.Store(true)
	got := make(chan [2]int64, 1)
	go func() {
		first, epoch, err := slow.Take(within(t), 1)
		require.NoError(t, err)
		got <- [2]int64{first, epoch}
	}()
	<-h.reached
	first, epoch, err := fast.Take(within(t), 10)
	require.NoError(t, err)
	require.EqualValues(t, 2, epoch)
	require.True(t, w.land(0, epoch, first))
	w.coordinator.Wipe()
	h.release()
	require.Equal(t, [2]int64{first + 1, 3}, <-got)
}

// A process whose claim belongs to a life of the coordinator that is over must not lower the members' epochs.
func TestEpochsOnlyGrow(t *testing.T) {
	w := newWorld(t, 1)
	h := newHold(claims)
	slow, fast := w.open(h.intercept), w.open(nil)
	defer h.release()
	w.coordinator.Wipe()
	h.armed.Store(true)
	got := make(chan int64, 1)
	go func() {
		_, epoch, err := slow.Take(within(t), 1)
		require.NoError(t, err)
		got <- epoch
	}()
	<-h.reached
	for range 2 {
		w.coordinator.Wipe()
		_, _, err := fast.Take(within(t), 1)
		require.NoError(t, err)
	}
	h.release()
	require.EqualValues(t, 3, <-got)
	epoch, _, err := record.ParsePair(w.members[0].Get(record.KeyFence))
	require.NoError(t, err)
	require.EqualValues(t, 3, epoch)
}

func claims(req proto.Message) bool {
	r, ok := req.(*pb.TxnRequest)
	return ok && len(r.Success) > 0 && string(r.Success[0].GetRequestPut().GetKey()) == clock.Prefix+"clock/claim"
}

// What lands while a clock is being rebuilt is either dead or below the new clock.
func TestNothingLandsBehindTheBase(t *testing.T) {
	w := newWorld(t, 2)
	h := newHold(readsClock)
	c := w.open(h.intercept)
	defer h.release()
	first, epoch, err := c.Take(within(t), 10)
	require.NoError(t, err)
	require.True(t, w.land(0, epoch, first))
	w.coordinator.Wipe()
	h.armed.Store(true)
	got := make(chan int64, 1)
	go func() {
		again, _, err := c.Take(within(t), 1)
		require.NoError(t, err)
		got <- again
	}()
	<-h.reached
	require.False(t, w.land(0, epoch, first+9), "the clock was read before the epoch was raised everywhere")
	require.False(t, w.land(1, epoch, first+9), "the clock was read before the epoch was raised everywhere")
	h.release()
	require.Equal(t, first+1, <-got)
}

// A fence that was raised was shown to somebody, like a stamp that landed.
func TestTheBaseIsAboveEveryFence(t *testing.T) {
	w := newWorld(t, 2)
	c := w.open(nil)
	_, err := w.members[1].Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(record.KeyFence), Value: record.Pair(1, 500)})
	require.NoError(t, err)
	w.coordinator.Wipe()
	first, epoch, err := c.Take(within(t), 1)
	require.NoError(t, err)
	require.EqualValues(t, 501, first)
	require.EqualValues(t, 2, epoch)
	require.Eventually(t, func() bool {
		return string(w.members[0].Get(record.KeyFence)) == string(record.Pair(2, 500))
	}, time.Minute, time.Millisecond, "the members' fences are not raised to the base")
}

func TestAddsCompareTheEpoch(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.open(nil), w.open(nil)
	changed := b.EpochChanged()
	w.coordinator.Wipe()
	_, epoch, err := a.Take(within(t), 5)
	require.NoError(t, err)
	require.EqualValues(t, 2, epoch)
	require.EqualValues(t, 1, b.Epoch())
	first, epoch, err := b.Take(within(t), 1)
	require.NoError(t, err)
	require.EqualValues(t, 7, first)
	require.EqualValues(t, 2, epoch)
	<-changed
	now, epoch, err := a.Read(within(t))
	require.NoError(t, err)
	require.EqualValues(t, 7, now)
	require.EqualValues(t, 2, epoch)
}

func TestSyncRebuildsOrFollows(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.open(nil), w.open(nil)
	epoch, err := a.Sync(within(t))
	require.NoError(t, err)
	require.EqualValues(t, 1, epoch)
	w.coordinator.Wipe()
	for _, c := range []*clock.Clock{a, b} {
		epoch, err := c.Sync(within(t))
		require.NoError(t, err)
		require.EqualValues(t, 2, epoch)
	}
}

func TestRebuildingWaitsForAllMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		c := w.open(nil)
		w.members[2].SetDown(true)
		w.coordinator.Wipe()
		go func() {
			time.Sleep(time.Minute)
			w.members[2].SetDown(false)
		}()
		start := time.Now()
		_, epoch, err := c.Take(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 2, epoch)
		require.GreaterOrEqual(t, time.Since(start), time.Minute)
	})
}

// A process dies in the middle of a rebuild, and another one completes it.
func TestRebuildsThatWereInterruptedComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for writes := range int64(10) {
			w := newWorld(t, 2)
			var sent atomic.Int64
			dying := clock.New(w.config(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				if etcdfake.Writes(req) && sent.Add(1) > writes {
					return nil, etcdfake.ErrLost
				}
				return do()
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = dying.Open(ctx)
			cancel()
			dying.Close()
			c := w.open(nil)
			first, epoch, err := c.Take(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 2, first)
			require.EqualValues(t, 1, epoch)
			c.Close()
		}
	})
}
