package member

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

var write = &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte("k")})}}

// What was stopped sends nothing, and says why.
func TestAStoppedProcessSendsNothing(t *testing.T) {
	s, why := created(t), errors.New("stopped")
	m := open(t, s.Client(nil), func(c *Config) { c.Stopped = func() error { return why } })
	rev := s.Revision()
	for _, send := range []func(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error){m.Send, m.Txn} {
		_, err := send(t.Context(), write)
		require.Equal(t, why, err)
	}
	require.Equal(t, rev, s.Revision())
}

// The end of the process cuts off Txn, but not Send: Close waits for writes that are under way.
func TestSendOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, hold := created(t), make(chan struct{})
		m := open(t, s.Client(func(ctx context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			select {
			case <-hold:
				return do()
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}))
		errs := make(chan error, 2)
		go func() { _, err := m.Txn(t.Context(), write); errs <- err }()
		synctest.Wait()
		m.Life.End(lifetime.ErrClosed)
		require.Equal(t, codes.Canceled, status.Code(<-errs))
		go func() { _, err := m.Send(t.Context(), write); errs <- err }()
		synctest.Wait()
		close(hold)
		require.NoError(t, <-errs)
		require.Contains(t, s.Keys(), "k")
	})
}

// Every request is counted, with its error, which names the member; and every revision that an answer shows is told.
func TestRequestsAreSeen(t *testing.T) {
	s := created(t)
	var methods []string
	var reached int64
	m := open(t, s.Client(nil), func(c *Config) {
		c.Index = 4
		c.Seen = func(i int, method string, err error) {
			require.Equal(t, 4, i)
			if err != nil {
				method += " failed"
			}
			methods = append(methods, method)
		}
		c.Reached = func(i int, rev int64) { require.Equal(t, 4, i); reached = rev }
	})
	_, err := m.Txn(t.Context(), write)
	require.NoError(t, err)
	require.Equal(t, s.Revision(), reached)
	put(t, s, "l", nil)
	_, err = m.Revision(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.Revision(), reached)
	s.SetDown(true)
	_, err = m.Send(t.Context(), write)
	var named *wire.Error
	require.ErrorAs(t, err, &named)
	require.Equal(t, "a", named.Member)
	_, err = m.LookAtFence(t.Context())
	require.ErrorAs(t, err, &named)
	require.Equal(t, []string{"txn", "range", "txn failed", "range failed"}, methods)
}

// A server that lags behind what was seen is asked linearizably, for one range and for several.
func TestServersThatLag(t *testing.T) {
	s := created(t)
	var serializable []bool
	future := func(r *pb.RangeRequest) error {
		serializable = append(serializable, r.Serializable)
		if r.Serializable {
			return rpctypes.ErrGRPCFutureRev
		}
		return nil
	}
	server := s.Client(nil)
	m := open(t, funcs{
		get: func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
			if err := future(req); err != nil {
				return nil, err
			}
			return server.Range(ctx, req)
		},
		txn: func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			if err := future(req.Success[0].GetRequestRange()); err != nil {
				return nil, err
			}
			return server.Txn(ctx, req)
		},
	})
	fence := &pb.RangeRequest{Key: []byte(record.KeyFence)}
	for _, n := range []int{1, 2} {
		serializable = nil
		var reqs []*pb.RangeRequest
		for range n {
			reqs = append(reqs, proto.CloneOf(fence))
		}
		resps, err := m.RangesAt(t.Context(), reqs)
		require.NoError(t, err)
		require.Len(t, resps, n)
		require.Equal(t, record.Pair(3, 10), resps[n-1].Kvs[0].Value)
		require.Equal(t, []bool{true, false}, serializable)
	}
}

// A member that was away is asked until it answers, each time for as long as the timeout; who was not is not asked.
func TestAwaitBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, asked := created(t), 0
		m := open(t, s.Client(func(ctx context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			asked++
			if asked < 3 { // it hangs
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return do()
		}))
		require.NoError(t, m.AwaitBack(t.Context(), time.Second))
		require.Zero(t, asked)
		m.NoteAway()
		begin := time.Now()
		require.NoError(t, m.AwaitBack(t.Context(), time.Second))
		require.Equal(t, 3, asked)
		require.InDelta(t, 2, time.Since(begin).Seconds(), 0.1)
		require.NoError(t, m.AwaitBack(t.Context(), time.Second))
		require.Equal(t, 3, asked, "it is back")

		m.NoteAway()
		s.SetDown(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, m.AwaitBack(ctx, time.Second), context.DeadlineExceeded)
	})
}

// Errors that say nothing of the request are passed over; others, and answers, are not.
func TestPersist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			err   error
			again bool
		}{
			"unavailable":       {errDown, true},
			"named":             {wire.Name("a", errDown), true},
			"deadline":          {status.FromContextError(context.DeadlineExceeded).Err(), true},
			"canceled":          {status.FromContextError(context.Canceled).Err(), true},
			"own deadline":      {context.DeadlineExceeded, true},
			"too many requests": {rpctypes.ErrGRPCRequestTooManyRequests, true},
			"compacted":         {rpctypes.ErrGRPCCompacted, false},
			"no space":          {rpctypes.ErrGRPCNoSpace, false},
			"own":               {errors.New("odd"), false},
		} {
			calls := 0
			v, err := Persist(t.Context(), func(context.Context) (int, error) {
				if calls++; calls < 4 {
					return 0, tt.err
				}
				return calls, nil
			})
			if tt.again {
				require.NoError(t, err, name)
				require.Equal(t, 4, v, name)
			} else {
				require.Equal(t, tt.err, err, name)
				require.Equal(t, 1, calls, name)
			}
		}
	})
}

// Where the context ends it, the error is the member's, not the context's.
func TestPersistTellsWhatTheMemberSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := Persist(ctx, func(ctx context.Context) (int, error) {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) > time.Second {
				return 0, errDown
			}
			<-ctx.Done()
			return 0, status.FromContextError(ctx.Err()).Err()
		})
		require.Equal(t, errDown, err)
	})
}

// Reads wait for their member as long as their caller does, and no longer than the process lives.
func TestWhenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, calls := lifetime.New(t.Context()), 0
		down := func(until int, err error) func() (int, error) {
			calls = 0
			return func() (int, error) {
				if calls++; calls < until {
					return 0, err
				}
				return calls, nil
			}
		}
		begin := time.Now()
		v, err := WhenBack(t.Context(), life, down(3, errDown))
		require.NoError(t, err)
		require.Equal(t, 3, v)
		require.Equal(t, 2*AwayRetry, time.Since(begin))

		_, err = WhenBack(t.Context(), life, down(3, context.DeadlineExceeded))
		require.NoError(t, err, "a read that had its own end, in a queue")

		_, err = WhenBack(t.Context(), life, down(3, rpctypes.ErrGRPCCompacted))
		require.ErrorIs(t, err, rpctypes.ErrGRPCCompacted)
		require.Equal(t, 1, calls)

		ctx, cancel := context.WithTimeout(t.Context(), 5*AwayRetry/2)
		defer cancel()
		_, err = WhenBack(ctx, life, down(1000, errDown))
		require.Equal(t, errDown, err)
		require.Equal(t, 3, calls)

		time.AfterFunc(5*AwayRetry/2, func() { life.End(lifetime.ErrClosed) })
		_, err = WhenBack(t.Context(), life, down(1000, errDown))
		require.Equal(t, errDown, err)
		require.Equal(t, 4, calls)
	})
}

// A member that goes back to older data is reported once, until it has caught up with what it had shown. What may be outdated by
// itself says nothing.
func TestOldDataAreNoticedOnce(t *testing.T) {
	s := created(t)
	before := s.Save()
	log, logs := observed()
	m := open(t, s.Client(nil), func(c *Config) { c.Logger = log })
	ask := func() {
		t.Helper()
		_, err := m.Revision(t.Context())
		require.NoError(t, err)
		_, err = m.ReadRecords(t.Context())
		require.NoError(t, err)
	}
	lost := func() int { return logs.FilterLevelExact(zap.ErrorLevel).Len() }
	put(t, s, "k", nil)
	ask()
	require.False(t, m.WentBack())
	s.Restore(before)
	_, err := m.RangesAt(t.Context(), []*pb.RangeRequest{{Key: []byte("k")}, {Key: []byte("l")}})
	require.NoError(t, err)
	require.False(t, m.WentBack(), "the server that was asked may lag")
	ask()
	ask()
	require.True(t, m.WentBack())
	require.Equal(t, 1, lost())
	put(t, s, "k", nil)
	ask()
	require.False(t, m.WentBack(), "it has caught up")
	m.NoteShown(s.Revision() + 1)
	ask()
	require.True(t, m.WentBack(), "its stream had shown more")
	require.Equal(t, 2, lost())
}

func TestOutagesOfTheStreamAreToldOnce(t *testing.T) {
	m := open(t, etcdfake.New(1).Client(nil))
	require.False(t, m.NoteWatched())
	require.True(t, m.NoteUnwatched())
	require.False(t, m.NoteUnwatched())
	require.True(t, m.NoteWatched())
	require.False(t, m.NoteWatched())
}

func TestNotReached(t *testing.T) {
	m := open(t, etcdfake.New(1).Client(nil))
	other := errors.New("other")
	require.NoError(t, m.NotReached(7, nil))
	require.Equal(t, other, m.NotReached(7, other))
	err := m.NotReached(7, context.DeadlineExceeded)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "member a: its stream has not reached revision 7")
}
