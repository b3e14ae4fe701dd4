package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// member is one member cluster as this process talks to it.
type member struct {
	index  int
	name   string
	cli    *clientv3.Client
	kv     pb.KVClient
	points *pointReader
	open   context.Context // ends with the core
	// stopped returns why nothing may be sent any more; nil: it may. reached is told the revisions that answers show.
	stopped func() error
	reached func(member int, rev int64)
	seen    func(member int, method string, err error) // counts requests
	away    atomic.Bool                                // it did not answer a transaction across members; see awaitBack

	log       *zap.Logger
	unwatched backoff.Outage // its stream
	newest    atomic.Int64   // the highest revision that it has shown
	old       backoff.Outage // it answers at older ones

	mu   sync.Mutex
	from []byte // where Health looks for foreign keys next; nil: at the first
}

// whileOpen ends a request's context with the core: a member that does not answer must not hold up Close.
func (m *member) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	return whileOpen(ctx, m.open)
}

func (m *member) txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := m.whileOpen(ctx)
	defer cancel()
	return m.send(ctx, req)
}

// send is txn for writes: those in flight are awaited by Close.
func (m *member) send(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := m.stopped(); err != nil {
		return nil, err
	}
	newest := m.newest.Load()
	resp, err := m.kv.Txn(ctx, req)
	m.seen(m.index, "txn", err)
	if err == nil {
		m.reached(m.index, resp.Header.GetRevision())
		if !serializable(req) {
			m.look(newest, resp.Header.GetRevision())
		}
	}
	return resp, wire.Name(m.name, err)
}

// serializable reports whether any server may answer a transaction, as it is.
func serializable(req *pb.TxnRequest) bool {
	return len(req.Compare) == 0 && len(req.Success) > 0 && req.Success[0].GetRequestRange().GetSerializable()
}

// look notes a revision that the member answered at, linearizably. If it is below one that the member had shown before, its data are
// not what they were.
func (m *member) look(shown, rev int64) {
	switch {
	case rev >= shown:
		raise(&m.newest, rev)
		m.old.Ends()
	case m.old.Begins():
		m.log.Error("a member has lost its data or has gone back to older ones; nothing works that needs it",
			zap.String("member", m.name), zap.Int64("revision", rev), zap.Int64("was", shown))
	}
}

// rangeAt reads the member at a revision that this process has seen on it. The answer cannot depend on which server
// gives it, so it need not be linearizable, unless the server that was asked lags behind what was seen.
func (m *member) rangeAt(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := m.whileOpen(ctx)
	defer cancel()
	req.Serializable = true
	resp, err := m.kv.Range(ctx, req)
	if errors.Is(err, rpctypes.ErrGRPCFutureRev) {
		req.Serializable = false
		resp, err = m.kv.Range(ctx, req)
	}
	m.seen(m.index, "range", err)
	return resp, wire.Name(m.name, err)
}

// notReached names the member whose stream was waited for in vain.
func (m *member) notReached(rev int64, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("metaetcd: member %s: its stream has not reached revision %d: %w", m.name, rev, err)
	}
	return err
}

// records is what a member's reserved records say at one of its revisions.
type records struct {
	mergedlog.MemberState
	compacted int64
	held      []mergedlog.Lock // with readOpening
}

// readRecords reads the member's present records, linearizably.
func (m *member) readRecords(ctx context.Context) (records, error) {
	r, _, err := m.readWith(ctx)
	return r, err
}

// readOpening is readRecords with the locks that are held at the same revision.
func (m *member) readOpening(ctx context.Context) (records, error) {
	key, end := record.SlotRange()
	r, more, err := m.readWith(ctx, rangeOp(&pb.RangeRequest{Key: []byte(record.KeyLock)}), rangeOp(&pb.RangeRequest{Key: key, RangeEnd: end}))
	r.held = heldIn(m.index, more)
	return r, err
}

func (m *member) readWith(ctx context.Context, more ...*pb.RequestOp) (records, []*pb.ResponseOp, error) {
	keys := []string{record.KeyFence, record.KeyClock, record.KeyCompacted}
	req := &pb.TxnRequest{}
	for _, k := range keys {
		req.Success = append(req.Success, rangeOp(&pb.RangeRequest{Key: []byte(k)}))
	}
	req.Success = append(req.Success, more...)
	resp, err := m.txn(ctx, req)
	if err != nil {
		return records{}, nil, err
	}
	values := make([][]byte, len(keys))
	for i := range keys {
		kvs := resp.Responses[i].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return records{}, nil, fmt.Errorf("metaetcd: member %s has lost its record %q", m.name, keys[i])
		}
		values[i] = kvs[0].Value
	}
	r := records{MemberState: mergedlog.MemberState{Rev: resp.Header.Revision}}
	var errs [3]error
	r.Epoch, r.Fence, errs[0] = record.ParsePair(values[0])
	_, r.Clock, errs[1] = record.ParsePair(values[1])
	r.compacted, errs[2] = record.ParseNumber(values[2])
	return r, resp.Responses[len(keys):], errors.Join(errs[:]...)
}

// persist repeats a request that does no harm when it is repeated, until it is answered, refused, or ctx ends: members whose
// leader changes, or that are down, are waited for. The error is the last one that the member gave.
func persist[T any](ctx context.Context, request func(ctx context.Context) (T, error)) (T, error) {
	var last error
	for retry := (backoff.Backoff{}); ; {
		v, err := request(ctx)
		switch {
		case err == nil || !passing(err):
			return v, err
		case last == nil || ctx.Err() == nil:
			last = err
		}
		if !retry.Wait(ctx) {
			return v, last
		}
	}
}

// passing reports whether an error says nothing of the request itself.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests)
}

// present returns the member's present revision, linearizably.
func (m *member) present(ctx context.Context) (int64, error) {
	newest := m.newest.Load()
	resp, err := m.kv.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyTopology), CountOnly: true})
	m.seen(m.index, "range", err)
	if err != nil {
		return 0, wire.Name(m.name, err)
	}
	m.reached(m.index, resp.Header.Revision)
	m.look(newest, resp.Header.Revision)
	return resp.Header.Revision, nil
}

// awaitBack waits until the member answers, if it did not when a transaction across members needed it last. It gives each
// request the timeout.
func (m *member) awaitBack(ctx context.Context, timeout time.Duration) error {
	for retry := (backoff.Backoff{}); m.away.Load(); {
		if !retry.Wait(ctx) {
			return ctx.Err()
		}
		asking, cancel := context.WithTimeout(ctx, timeout)
		_, err := m.present(asking)
		cancel()
		if err == nil {
			m.away.Store(false)
		}
	}
	return nil
}

func (m *member) lostFence() error {
	return fmt.Errorf("metaetcd: member %s has lost its fence", m.name)
}

// raised is a fence that holds on a member: in epoch, from the native revision on.
type raised struct{ epoch, fence, rev int64 }

// raise makes the member refuse every stamp of the epoch at or below stamp (section 6). In another epoch it does nothing
// and answers with that epoch.
func (m *member) raise(ctx context.Context, epoch, stamp int64) (raised, error) {
	fence := []byte(record.KeyFence)
	resp, err := m.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Value{Value: record.Number(epoch)}},
			{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: record.Pair(epoch, stamp)}},
		},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fence, Value: record.Pair(epoch, stamp)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: fence}}}},
	})
	if err != nil {
		return raised{}, err
	}
	r := raised{epoch: epoch, fence: stamp, rev: resp.Header.Revision}
	if !resp.Succeeded {
		kvs := resp.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return raised{}, m.lostFence()
		}
		r.epoch, r.fence, err = record.ParsePair(kvs[0].Value)
	}
	return r, err
}
