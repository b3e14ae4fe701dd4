package lease

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// coordinator answers keep-alives on streams that can break.
type coordinator struct {
	pb.LeaseClient
	mu      sync.Mutex
	streams []*stream
	answers bool           // each request is answered at once
	blocked map[int64]bool // but for these, and those behind them on their streams
}

func (c *coordinator) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	s := &stream{c: c, ctx: ctx, out: make(chan *pb.LeaseKeepAliveResponse, 100), broken: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams = append(c.streams, s)
	return s, nil
}

func (c *coordinator) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

func (c *coordinator) answer(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = is
}

// since returns the streams that were opened after one.
func (c *coordinator) since(s *stream) []*stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.streams[1+slices.Index(c.streams, s):])
}

// asked is how often each timer was asked for.
func (c *coordinator) asked() map[int64]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := map[int64]int{}
	for _, s := range c.streams {
		for _, g := range s.asked {
			asked[g]++
		}
	}
	return asked
}

// last is the newest stream, and the ids that were asked for on it.
func (c *coordinator) last() (*stream, []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[len(c.streams)-1]
	return s, slices.Clone(s.asked)
}

type stream struct {
	grpc.ClientStream
	c      *coordinator
	ctx    context.Context
	asked  []int64
	stuck  bool
	out    chan *pb.LeaseKeepAliveResponse
	broken chan struct{}
}

func (s *stream) Send(r *pb.LeaseKeepAliveRequest) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.asked = append(s.asked, r.ID)
	s.stuck = s.stuck || s.c.blocked[r.ID]
	if s.c.answers && !s.stuck {
		s.out <- &pb.LeaseKeepAliveResponse{ID: r.ID, TTL: r.ID}
	}
	return nil
}

func (s *stream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	select {
	case r := <-s.out:
		return r, nil
	case <-s.broken:
		return nil, errors.New("broken")
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *stream) CloseSend() error { return nil }

// openRenewer opens one that knows of some timers that they run.
func openRenewer(t *testing.T, running ...int64) (*renewer, *coordinator) {
	c := &coordinator{blocked: map[int64]bool{}}
	life := lifetime.New(context.Background())
	rn := newRenewer(life, Config{Lease: c, Logger: zap.NewNop()})
	for _, g := range running {
		rn.started(g, time.Now(), 3600)
	}
	t.Cleanup(func() {
		life.End(nil)
		life.Wait()
	})
	return rn, c
}

// block holds up the answers for timers, as etcd does for those that have run out and are not revoked yet; and no longer.
func (c *coordinator) block(is bool, gs ...int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range gs {
		c.blocked[g] = is
	}
}

// tally counts the answers to renewals, by timer.
type tally struct {
	mu   sync.Mutex
	told map[int64]int
}

func (y *tally) ask(rn *renewer, gs ...int64) {
	for _, g := range gs {
		rn.add(g, func(int64) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.told[g]++
		})
	}
}

func (y *tally) all() map[int64]int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return maps.Clone(y.told)
}

// TestRenewals: who comes before a renewal is sent shares it, and those who come later share the next, which is sent when that is
// answered; what was not answered is sent again, with those who came meanwhile, the first on a stream of its own, and the others
// in order; each is told once.
func TestRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rn, c := openRenewer(t, 1, 2, 3)
		y := &tally{told: map[int64]int{}}
		ask := func(g int64) {
			y.ask(rn, g)
			synctest.Wait()
		}
		ask(1)
		ask(1)
		ask(1)
		first, asked := c.last()
		require.Equal(t, []int64{1}, asked, "the others came after the first was sent")
		first.out <- &pb.LeaseKeepAliveResponse{ID: 1, TTL: 1}
		synctest.Wait()
		_, asked = c.last()
		require.Equal(t, []int64{1, 1}, asked)
		require.Equal(t, map[int64]int{1: 1}, y.all(), "the others' was sent after they came")
		ask(2)
		ask(2)
		close(first.broken)
		y.ask(rn, 3, 3)
		time.Sleep(time.Second)
		c.answer(true)
		again := c.since(first)
		require.Len(t, again, 2)
		slices.SortFunc(again, func(a, b *stream) int { return len(b.asked) - len(a.asked) })
		require.Equal(t, []int64{2, 3}, again[0].asked)
		require.Equal(t, []int64{1}, again[1].asked, "it may be what held up the others")
		for _, s := range again {
			for _, id := range s.asked {
				s.out <- &pb.LeaseKeepAliveResponse{ID: id, TTL: id}
			}
		}
		synctest.Wait()
		require.Equal(t, map[int64]int{1: 3, 2: 2, 3: 2}, y.all())
	})
}

// TestOutage: clients ask again and again while the coordinator is silent. A stream is asked for a timer once, and when the coordinator is
// back each timer is renewed once, for all who have asked, however many streams have broken.
func TestOutage(t *testing.T) {
	for name, ttl := range map[string]int64{"on the shared stream": 3600, "on streams of their own": 0} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { outage(t, ttl) }) })
	}
}

func outage(t *testing.T, ttl int64) {
	rn, c := openRenewer(t)
	y := &tally{told: map[int64]int{}}
	want := map[int64]int{}
	const each = 50
	var all []int64
	for g := int64(1); g <= 100; g++ {
		all, want[g] = append(all, g), each
		rn.started(g, time.Now(), ttl)
	}
	for range each { // as clientv3 does
		y.ask(rn, all...)
		time.Sleep(500 * time.Millisecond)
	}
	require.Empty(t, y.all())
	c.answer(true)
	before := c.asked()
	time.Sleep(2 * renewTimeout)
	require.Equal(t, want, y.all())
	for g, n := range c.asked() {
		require.Equal(t, before[g]+1, n, "timer %d, after the outage", g)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		require.Len(t, s.asked, len(slices.Compact(slices.Sorted(slices.Values(s.asked)))), "a stream is asked once for a timer")
	}
}

// TestSilentStream: a stream that says nothing is given up, but not while there is nothing to say.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rn, c := openRenewer(t, 5, 6)
		c.answer(true)
		ttl, err := rn.once(t.Context(), 5)
		require.NoError(t, err)
		require.EqualValues(t, 5, ttl)
		time.Sleep(10 * renewTimeout)
		require.Equal(t, 1, c.count())
		c.answer(false)
		answer := make(chan int64, 1)
		rn.add(6, func(ttl int64) { answer <- ttl })
		time.Sleep(renewTimeout / 2)
		require.Equal(t, 1, c.count())
		c.answer(true)
		time.Sleep(renewTimeout)
		require.Equal(t, 3, c.count(), "a new one, and one for what may have held up others")
		require.EqualValues(t, 6, <-answer)
	})
}

// TestTimersThatHaveRunOutHoldUpNobody: etcd answers for a timer that has run out when it has revoked it, and answers in order. Those that
// run are renewed meanwhile, however many others there are; these are each asked for once at a time, and told in the end.
func TestTimersThatHaveRunOutHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rn, c := openRenewer(t, 1, 2, 3)
		y := &tally{told: map[int64]int{}}
		c.answer(true)
		want := map[int64]int{1: 1, 2: 1, 3: 1}
		var out []int64
		for g := int64(100); g < 100+2*aloneAtOnce; g++ {
			out = append(out, g)
			want[g] = 1
		}
		c.block(true, out...)
		for range 2 {
			y.ask(rn, out[0])
			synctest.Wait()
			require.Equal(t, 2, c.count(), "it is being asked for")
		}
		want[out[0]] = 3
		y.ask(rn, out...)
		y.ask(rn, 1, 2, 3)
		synctest.Wait()
		require.Equal(t, map[int64]int{1: 1, 2: 1, 3: 1}, y.all())
		require.Equal(t, 1+aloneAtOnce, c.count())
		time.Sleep(2 * renewTimeout)
		c.block(false, out...)
		time.Sleep(2 * renewTimeout)
		require.Equal(t, want, y.all())

		for g := range int64(3) {
			rn.started(g, time.Now(), 3600)
		}
		c.block(true, 1)
		y.ask(rn, 1, 2)
		time.Sleep(renewTimeout + time.Second)
		want[2]++
		require.Equal(t, want, y.all(), "1 ran, but has been revoked")
	})
}

// TestRunningTimersAreKnown: timers count as running for as long as they do for certain.
func TestRunningTimersAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rn, c := openRenewer(t)
		c.answer(true)
		for range 3 { // the TTL is 60, and the first renewal goes alone
			_, err := rn.once(t.Context(), 60)
			require.NoError(t, err)
			time.Sleep(30 * time.Second)
		}
		require.Equal(t, 2, c.count())
		time.Sleep(15 * time.Second)
		_, err := rn.once(t.Context(), 60)
		require.NoError(t, err)
		require.Equal(t, 3, c.count(), "it might have run out")
		rn.forget()
		require.Len(t, rn.runs, 1)
		time.Sleep(time.Minute)
		rn.forget()
		require.Empty(t, rn.runs)
		rn.started(7, time.Now(), math.MaxInt64)
		require.True(t, time.Now().Before(rn.runs[7]))
	})
}
