package share

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBad = errors.New("bad")

// server doubles numbers when it is told to, but for those that are bad.
type server struct {
	calls  *Calls[int, int]
	life   *lifetime.Life
	answer chan struct{}
	asked  [][]int
}

func serve(t *testing.T, test func(t *testing.T, s *server)) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{life: lifetime.New(context.Background()), answer: make(chan struct{})}
		s.calls = New(Config[int, int]{
			Life: s.life, Timeout: time.Second, Lone: 1, Most: 3,
			Alone: func(ctx context.Context, q int) (int, error) {
				as, err := s.ask(ctx, []int{q})
				return as[0], err
			},
			Together: s.ask,
		})
		test(t, s)
		s.life.End(lifetime.ErrClosed)
		s.life.Wait()
		s.calls.mu.Lock()
		defer s.calls.mu.Unlock()
		require.Zero(t, s.calls.out)
		require.Empty(t, s.calls.queue)
	})
}

func (s *server) ask(ctx context.Context, qs []int) ([]int, error) {
	s.asked = append(s.asked, qs)
	as := make([]int, len(qs))
	select {
	case <-s.answer:
	case <-ctx.Done():
		return as, ctx.Err()
	}
	for i, q := range qs {
		if as[i] = 2 * q; q < 0 {
			return as, errBad
		}
	}
	return as, nil
}

type result struct {
	a   int
	err error
}

func (s *server) call(ctx context.Context, q int) <-chan result {
	r := make(chan result, 1)
	go func() {
		a, err := s.calls.Do(ctx, q)
		r <- result{a, err}
	}()
	synctest.Wait()
	return r
}

func (s *server) let(n int) {
	for range n {
		s.answer <- struct{}{}
		synctest.Wait()
	}
}

// What comes while a request is out shares the next ones, in order, and each call gets its own answer.
func TestCallsShareRequests(t *testing.T) {
	serve(t, func(t *testing.T, s *server) {
		var all []<-chan result
		for q := range 6 {
			all = append(all, s.call(t.Context(), q))
		}
		s.let(3)
		for q, r := range all {
			require.Equal(t, result{a: 2 * q}, <-r)
		}
		require.Equal(t, [][]int{{0}, {1, 2, 3}, {4, 5}}, s.asked)
		r := s.call(t.Context(), 7)
		s.let(1)
		require.Equal(t, result{a: 14}, <-r)
		require.Equal(t, []int{7}, s.asked[3])
	})
}

func TestOneThatFailsFailsNoOther(t *testing.T) {
	serve(t, func(t *testing.T, s *server) {
		first, good, bad := s.call(t.Context(), 1), s.call(t.Context(), 2), s.call(t.Context(), -3)
		s.let(4)
		require.Equal(t, result{a: 2}, <-first)
		require.Equal(t, result{a: 4}, <-good)
		require.ErrorIs(t, (<-bad).err, errBad)
		require.Equal(t, [][]int{{1}, {2, -3}, {2}, {-3}}, s.asked)
	})
}

// Who leaves is not asked for, unless the request is out already.
func TestCallersMayLeave(t *testing.T) {
	serve(t, func(t *testing.T, s *server) {
		ctx, leave := context.WithCancel(t.Context())
		first, left, stays := s.call(t.Context(), 1), s.call(ctx, 2), s.call(t.Context(), 3)
		leave()
		require.ErrorIs(t, (<-left).err, context.Canceled)
		s.let(1)
		require.Equal(t, result{a: 2}, <-first)
		ctx, leave = context.WithCancel(t.Context())
		left, another := s.call(ctx, 4), s.call(t.Context(), 5)
		s.let(1)
		require.Equal(t, result{a: 6}, <-stays)
		leave()
		require.ErrorIs(t, (<-left).err, context.Canceled)
		s.let(1)
		require.Equal(t, result{a: 10}, <-another)
		require.Equal(t, [][]int{{1}, {3}, {4, 5}}, s.asked)
	})
}

func TestTheEndAnswersAll(t *testing.T) {
	serve(t, func(t *testing.T, s *server) {
		first, waits := s.call(t.Context(), 1), s.call(t.Context(), 2)
		s.life.End(lifetime.ErrClosed)
		s.let(1)
		require.Equal(t, result{a: 2}, <-first)
		require.ErrorIs(t, (<-waits).err, lifetime.ErrClosed)
	})
}

// A shared request that hangs does not hold up the calls behind it for ever.
func TestASharedRequestIsBounded(t *testing.T) {
	serve(t, func(t *testing.T, s *server) {
		first, a, b := s.call(t.Context(), 1), s.call(t.Context(), 2), s.call(t.Context(), 3)
		s.let(1)
		<-first
		require.ErrorIs(t, (<-a).err, context.DeadlineExceeded)
		require.ErrorIs(t, (<-b).err, context.DeadlineExceeded)
	})
}
