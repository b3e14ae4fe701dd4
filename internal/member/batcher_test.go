package member

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// slow is a server that answers when it is told to: a request takes a token of answer. A read's value is its key.
type slow struct {
	answer chan struct{}

	mu      sync.Mutex
	lone    []string   // keys of requests for one key, in the order of their arrival
	batches [][]string // those of the others
	bad     string     // reads of it fail
	bytes   int        // of values
}

func (s *slow) get(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	s.lone = append(s.lone, string(req.Key))
	s.mu.Unlock()
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.read(req)
}

func (s *slow) txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	var keys []string
	for _, op := range req.Success {
		keys = append(keys, string(op.GetRequestRange().Key))
	}
	s.mu.Lock()
	s.batches = append(s.batches, keys)
	s.mu.Unlock()
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 5}}
	for _, op := range req.Success {
		r, err := s.read(op.GetRequestRange())
		if err != nil {
			return nil, err
		}
		r.Header = nil
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}})
	}
	return resp, nil
}

func (s *slow) wait(ctx context.Context) error {
	select {
	case <-s.answer:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slow) read(req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if string(req.Key) == s.bad {
		return nil, rpctypes.ErrGRPCCompacted
	}
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 5}, Kvs: []*mvccpb.KeyValue{{Key: req.Key, ModRevision: req.Revision, Value: make([]byte, s.bytes)}}}, nil
}

// reads starts a read of each key, in order, and returns where their errors appear. It is for a bubble of synctest, in which each
// request arrives before the next one is sent.
func (s *slow) reads(t *testing.T, ctx context.Context, m *Member, keys ...string) map[string]error {
	errs := map[string]error{}
	for i, key := range keys {
		go func() {
			resp, err := m.ReadPoint(ctx, &pb.RangeRequest{Key: []byte(key), Revision: int64(i + 1)})
			s.mu.Lock()
			errs[key] = err
			s.mu.Unlock()
			if err == nil {
				require.Equal(t, key, string(resp.Kvs[0].Key))
				require.EqualValues(t, i+1, resp.Kvs[0].ModRevision, "each at its own revision")
				require.EqualValues(t, 5, resp.Header.Revision)
			}
		}()
		synctest.Wait()
	}
	return errs
}

// let answers n requests, one after the other.
func (s *slow) let(n int) {
	for range n {
		s.answer <- struct{}{}
		synctest.Wait()
	}
}

// slowly runs a test in a bubble, with a member that answers when it is told to.
func slowly(t *testing.T, test func(t *testing.T, s *slow, m *Member)) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{answer: make(chan struct{})}
		m := open(t, funcs{get: s.get, txn: s.txn})
		test(t, s, m)
		m.Life.End(lifetime.ErrClosed)
		m.Life.Wait()
	})
}

// Two requests are out; what comes meanwhile shares the next one, as much as a transaction may hold.
func TestReadsShareRequests(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		var keys []string
		for i := range 2 + sharedReads + 2 {
			keys = append(keys, fmt.Sprint(i))
		}
		errs := s.reads(t, t.Context(), m, keys...)
		require.Equal(t, keys[:2], s.lone)
		require.Empty(t, s.batches)
		s.let(1)
		require.Equal(t, [][]string{keys[2 : 2+sharedReads]}, s.batches)
		require.Len(t, errs, 1)
		s.let(3)
		require.Equal(t, keys[2+sharedReads:], s.batches[1])
		require.Len(t, errs, len(keys))
		for key, err := range errs {
			require.NoError(t, err, key)
		}
		s.reads(t, t.Context(), m, "late", "later")
		require.Equal(t, []string{"late", "later"}, s.lone[2:], "nothing is out any more")
		s.let(2)
	})
}

// The member's limit of operations bounds what shares a request, and one read alone is no transaction.
func TestSharesFitTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{answer: make(chan struct{})}
		m := open(t, funcs{get: s.get, txn: s.txn}, func(c *Config) { c.MaxTxnOps = 3 })
		errs := s.reads(t, t.Context(), m, "1", "2", "a", "b", "c", "d")
		s.let(4)
		require.Equal(t, [][]string{{"a", "b", "c"}}, s.batches)
		require.Equal(t, []string{"1", "2", "d"}, s.lone)
		require.Len(t, errs, 6)
		m.Life.Wait()
	})
}

// Large values travel by few, and small ones by many again.
func TestSharesFollowWhatTheyBring(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		s.bytes = sharedBytes / 4
		keys := make([]string, 2+sharedReads+100)
		for i := range keys {
			keys[i] = fmt.Sprint(i)
		}
		errs := s.reads(t, t.Context(), m, keys...)
		s.let(2 + 2)
		require.Len(t, s.batches, 4)
		require.Len(t, s.batches[1], sharedReads)
		require.Len(t, s.batches[2], 3)
		require.Len(t, s.batches[3], 3)
		s.bytes = 0
		close(s.answer)
		synctest.Wait()
		require.Len(t, errs, len(keys))
		most := 0
		for _, b := range s.batches[4:] {
			most = max(most, len(b))
		}
		require.GreaterOrEqual(t, most, 12)
	})
}

// A read that fails fails no other of those that shared its request.
func TestAShareThatFailsIsReadOneByOne(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		s.bad = "bad"
		errs := s.reads(t, t.Context(), m, "1", "2", "a", "bad", "b")
		s.let(2 + 1 + 3)
		require.Equal(t, []string{"1", "2", "a", "bad", "b"}, s.lone)
		require.Len(t, errs, 5)
		for key, err := range errs {
			if key == s.bad {
				require.ErrorIs(t, err, rpctypes.ErrGRPCCompacted)
				require.ErrorContains(t, err, "member a")
			} else {
				require.NoError(t, err, key)
			}
		}
	})
}

// A caller that leaves waits no longer; the others who share its request get theirs.
func TestAReaderMayLeave(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		ctx, leave := context.WithCancel(t.Context())
		errs := s.reads(t, t.Context(), m, "1", "2", "stays")
		left := s.reads(t, ctx, m, "leaves")
		leave()
		synctest.Wait()
		require.ErrorIs(t, left["leaves"], context.Canceled)
		require.Empty(t, errs)
		s.let(3)
		require.Len(t, errs, 3)
		require.NoError(t, errs["stays"])
	})
}

// The end of the process answers everybody: those whose request is out, and those who wait.
func TestTheEndAnswersAllReads(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		errs := s.reads(t, t.Context(), m, "1", "2", "a", "b", "c")
		m.Life.End(lifetime.ErrClosed)
		synctest.Wait()
		require.Len(t, errs, 5)
		for key, err := range errs {
			require.ErrorIs(t, err, lifetime.ErrClosed, key)
		}
	})
}

// A shared request that a server leaves hanging does not hold up the reads behind it for ever.
func TestASharedRequestIsBounded(t *testing.T) {
	slowly(t, func(t *testing.T, s *slow, m *Member) {
		errs := s.reads(t, t.Context(), m, "1", "2", "a", "b")
		s.let(1)
		require.Len(t, s.batches, 1)
		<-timeAfter(timeout)
		synctest.Wait()
		require.ErrorIs(t, errs["a"], context.DeadlineExceeded)
		require.ErrorIs(t, errs["b"], context.DeadlineExceeded)
		s.let(1)
	})
}

func TestReadKeys(t *testing.T) {
	s := created(t)
	var sent []*pb.TxnRequest
	server := s.Client(nil)
	m := open(t, funcs{
		get: func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
			return server.Range(ctx, req)
		},
		txn: func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
			sent = append(sent, req)
			return server.Txn(ctx, req)
		},
	})
	put(t, s, "k", header(7).Value([]byte("v")))
	for _, linearizable := range []bool{false, true} {
		for _, keys := range [][]string{{"k"}, {"absent"}, {"absent", "k"}} {
			var ks [][]byte
			for _, k := range keys {
				ks = append(ks, []byte(k))
			}
			sent = nil
			rd, err := m.ReadKeys(t.Context(), ks, linearizable)
			require.NoError(t, err)
			require.Equal(t, s.Revision(), rd.Rev)
			require.Equal(t, linearizable || len(keys) > 1, len(sent) == 1)
			if len(sent) == 1 {
				require.Equal(t, !linearizable, sent[0].Success[0].GetRequestRange().Serializable)
			}
			for _, k := range keys {
				st, rev, read := rd.State([]byte(k))
				require.True(t, read)
				require.Equal(t, rd.Rev, rev)
				require.Equal(t, k == "k", st.KV != nil)
			}
			_, _, read := rd.State([]byte("other"))
			require.False(t, read)
		}
	}
}

// However many keys were read, each is found.
func TestStatesOfManyKeys(t *testing.T) {
	s := created(t)
	m := open(t, s.Client(nil))
	for _, n := range []int{manyKeys, manyKeys + 1, 3 * manyKeys} {
		var keys [][]byte
		for i := range n {
			key := fmt.Sprint("k", i)
			put(t, s, key, header(int64(100+i)).Value(nil))
			keys = append(keys, []byte(key))
		}
		rd, err := m.ReadKeys(t.Context(), keys, true)
		require.NoError(t, err)
		for i := range n {
			st, _, read := rd.State(keys[i])
			require.True(t, read)
			require.EqualValues(t, 100+i, st.KV.ModRevision)
			require.Equal(t, st.KV.ModRevision, Uncached(keys[i], Cached(st, rd.Rev)).KV.ModRevision, "what the cache keeps is enough")
		}
		_, _, read := rd.State([]byte("other"))
		require.False(t, read)
	}
}
