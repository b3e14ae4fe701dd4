package lease

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBookNeverGoesBack: reads and the stream tell of the same records, in any order.
func TestBookNeverGoesBack(t *testing.T) {
	b := NewBook(2)
	one, two := record.LeaseRecord{Grant: 1}, record.LeaseRecord{Grant: 2}
	kv := func(r record.LeaseRecord) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: record.LeaseKey(7), Value: r.Encode()}
	}
	gone := &mvccpb.KeyValue{Key: record.LeaseKey(7)}
	is := func(want *record.LeaseRecord) {
		t.Helper()
		got, ok := b.Get(1, 7)
		require.Equal(t, want != nil, ok)
		if ok {
			require.Equal(t, *want, got)
		}
		_, ok = b.Get(0, 7)
		require.False(t, ok, "of another member")
	}
	require.NoError(t, b.Load(1, 10, []*mvccpb.KeyValue{kv(one)}))
	is(&one)
	b.Follow(1, 9, gone)
	b.Learn(1, 10, 7, two, true)
	is(&one)
	b.Learn(1, 20, 7, two, true)
	is(&two)
	b.Follow(1, 15, kv(one))
	is(&two)
	b.Follow(1, 20, kv(two))
	b.Follow(1, 21, gone)
	is(nil)
	b.Learn(1, 20, 7, two, true)
	is(nil)
	dead := record.LeaseRecord{Grant: 3, Dead: true}
	b.Learn(1, 30, 7, dead, true)
	is(&dead)
	_, living := b.Living(7)
	require.False(t, living)
	present, isDead := b.state(grant{7, 3})
	require.True(t, present && isDead)
	require.Equal(t, []grant{{7, 3}}, b.all())
	require.NoError(t, b.Load(1, 40, nil))
	is(nil)
	require.ErrorIs(t, b.Load(1, 50, []*mvccpb.KeyValue{gone}), record.ErrMalformed)
}

// coordinator answers keep-alives on streams that can break.
type coordinator struct {
	pb.LeaseClient
	mu      sync.Mutex
	streams []*stream
	answers bool // each request is answered at once
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
	out    chan *pb.LeaseKeepAliveResponse
	broken chan struct{}
}

func (s *stream) Send(r *pb.LeaseKeepAliveRequest) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.asked = append(s.asked, r.ID)
	if s.c.answers {
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

func newKeeper(t *testing.T) (*keeper, *coordinator) {
	c := &coordinator{}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var wg sync.WaitGroup
	k := &keeper{lease: c, ctx: ctx, woken: make(chan struct{}, 1), waiting: map[int64]*renewal{}, log: zap.NewNop(), spawn: func(f func()) bool {
		wg.Go(f)
		return true
	}}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return k, c
}

// TestRenewals: who comes before a renewal is sent shares it, and who comes later does not; what was not answered is sent again on the
// next stream, in order; each is told once.
func TestRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := newKeeper(t)
		var mu sync.Mutex
		told := map[int64]int{}
		ask := func(g int64) {
			k.add(g, func(ttl int64) {
				mu.Lock()
				defer mu.Unlock()
				told[ttl]++
			})
		}
		ask(1)
		synctest.Wait()
		ask(1)
		synctest.Wait()
		_, asked := c.last()
		require.Equal(t, []int64{1, 1}, asked, "the second came after the first was sent")
		ask(2)
		synctest.Wait()
		first, _ := c.last()
		first.out <- &pb.LeaseKeepAliveResponse{ID: 1, TTL: 1}
		synctest.Wait()
		close(first.broken)
		ask(3)
		ask(3)
		time.Sleep(time.Second)
		second, asked := c.last()
		require.NotSame(t, first, second)
		require.Equal(t, []int64{1, 2, 3}, asked)
		c.answer(true)
		for _, id := range asked {
			second.out <- &pb.LeaseKeepAliveResponse{ID: id, TTL: id}
		}
		synctest.Wait()
		require.Equal(t, map[int64]int{1: 2, 2: 1, 3: 2}, told)
	})
}

// TestSilentStream: a stream that says nothing is given up, but not while there is nothing to say.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := newKeeper(t)
		c.answer(true)
		ttl, err := k.once(t.Context(), 5)
		require.NoError(t, err)
		require.EqualValues(t, 5, ttl)
		time.Sleep(10 * renewTimeout)
		require.Equal(t, 1, c.count())
		c.answer(false)
		answer := make(chan int64, 1)
		k.add(6, func(ttl int64) { answer <- ttl })
		time.Sleep(renewTimeout / 2)
		require.Equal(t, 1, c.count())
		c.answer(true)
		time.Sleep(renewTimeout)
		require.Equal(t, 2, c.count())
		require.EqualValues(t, 6, <-answer)
	})
}
