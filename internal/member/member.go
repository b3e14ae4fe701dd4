package member

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Txn sends a transaction. It ends with the process, too; see Send for what should be finished then.
func (m *Member) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := m.Life.Within(ctx)
	defer cancel()
	return m.Send(ctx, req)
}

// Send is Txn for writes: it ends with ctx alone, because Close waits for what is under way. A transaction that writes is sent once.
// After an error it may have been carried out nevertheless, unless the error is that of Stopped.
func (m *Member) Send(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := m.Stopped(); err != nil {
		return nil, err
	}
	newest := m.newest.Load()
	resp, err := m.KV.Txn(ctx, req)
	m.Seen(m.Index, "txn", err)
	if err == nil {
		m.Reached(m.Index, resp.Header.GetRevision())
		if !serializable(req) {
			m.look(newest, resp.Header.GetRevision())
		}
	}
	return resp, wire.Name(m.Name, err)
}

// RangeAt reads the member at a member revision that this process has seen on it, or, without one, what may be outdated. The answer
// cannot depend on which server gives it, so it need not be linearizable, unless the server that was asked lags behind what was seen.
// It sets req.Serializable.
func (m *Member) RangeAt(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := m.Life.Within(ctx)
	defer cancel()
	req.Serializable = true
	resp, err := m.KV.Range(ctx, req)
	if errors.Is(err, rpctypes.ErrGRPCFutureRev) {
		req.Serializable = false
		resp, err = m.KV.Range(ctx, req)
	}
	m.Seen(m.Index, "range", err)
	return resp, wire.Name(m.Name, err)
}

// RangesAt is RangeAt for several ranges, by one request: there are at most MaxTxnOps.
func (m *Member) RangesAt(ctx context.Context, reqs []*pb.RangeRequest) ([]*pb.RangeResponse, error) {
	if len(reqs) == 1 {
		resp, err := m.RangeAt(ctx, reqs[0])
		return []*pb.RangeResponse{resp}, err
	}
	txn := &pb.TxnRequest{}
	for _, r := range reqs {
		r.Serializable = true
		txn.Success = append(txn.Success, request.Range(r))
	}
	resp, err := m.Txn(ctx, txn)
	if errors.Is(err, rpctypes.ErrGRPCFutureRev) { // the server lags
		for _, r := range reqs {
			r.Serializable = false
		}
		resp, err = m.Txn(ctx, txn)
	}
	if err != nil {
		return nil, err
	}
	resps := make([]*pb.RangeResponse, len(reqs))
	for i := range resps {
		resps[i] = resp.Responses[i].GetResponseRange()
	}
	return resps, nil
}

// Revision returns the member's present revision, linearizably. It ends with ctx alone, as Send does.
func (m *Member) Revision(ctx context.Context) (int64, error) {
	newest := m.newest.Load()
	resp, err := m.KV.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyTopology), CountOnly: true})
	m.Seen(m.Index, "range", err)
	if err != nil {
		return 0, wire.Name(m.Name, err)
	}
	m.Reached(m.Index, resp.Header.Revision)
	m.look(newest, resp.Header.Revision)
	return resp.Header.Revision, nil
}

// NoteAway notes that the member did not answer a transaction across members: the next ones await it before they lock anything.
func (m *Member) NoteAway() { m.away.Store(true) }

// AwaitBack waits until the member answers if it was away, and returns at once if not. It asks again and again, and gives each request
// the timeout. It fails only with the context's error.
func (m *Member) AwaitBack(ctx context.Context, timeout time.Duration) error {
	for retry := (backoff.Backoff{}); m.away.Load(); {
		if !retry.Wait(ctx) {
			return ctx.Err()
		}
		asking, cancel := context.WithTimeout(ctx, timeout)
		_, err := m.Revision(asking)
		cancel()
		if err == nil {
			m.away.Store(false)
		}
	}
	return nil
}

// AwayRetry is how long a read of a member that is away rests before it asks again.
const AwayRetry = 50 * time.Millisecond

// WhenBack repeats a read while its member does not answer: it is down, has no leader or cannot be reached, and clientv3 gave
// up asking; or it was waited for in vain to be asked at all. Reads wait for it as long as their caller does, as writes do, and until
// the process ends. Other errors are the read's.
func WhenBack[T any](ctx context.Context, life *lifetime.Life, read func() (T, error)) (T, error) {
	for {
		resp, err := read()
		code := status.Code(err)
		away := code == codes.Unavailable || code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
		if !away || life.Over() || lifetime.Pause(ctx, AwayRetry) != nil {
			return resp, err
		}
	}
}

// Persist repeats a request that does no harm when it is repeated, until it is answered, refused, or ctx ends: members whose
// leader changes, or that are down, are waited for. Where ctx ends it, the error is the last one that the member gave.
func Persist[T any](ctx context.Context, request func(ctx context.Context) (T, error)) (T, error) {
	var last error
	for retry := (backoff.Backoff{}); ; {
		v, err := request(ctx)
		if err == nil || !wire.Passing(err) {
			return v, err
		}
		last = backoff.Last(ctx, last, err)
		if !retry.Wait(ctx) {
			return v, last
		}
	}
}
