package metaetcd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// leaseServer is etcd's Lease service over the meta cluster.
type leaseServer struct {
	pb.UnsafeLeaseServer
	c     *core
	names bool // see kvServer
}

func (s *leaseServer) fault(ctx context.Context, err error) error {
	return named(s.names, s.c.grpcError(ctx, err))
}

var _ pb.LeaseServer = (*leaseServer)(nil)

func (c *core) leaseConfig() lease.Config {
	cli := c.cfg.Coordinator
	cfg := lease.Config{
		Clock: c.clock, KV: wire.KV(cli), Lease: wire.Lease(cli),
		Watch:  func() clientv3.Watcher { return clientv3.NewWatcher(cli) },
		Delete: c.deleteAttached, MaxTxnOps: min(maxTxnOps, c.cfg.MemberTxnOps), Logger: c.cfg.Logger,
		OnReaped: c.metrics.reaps.Inc,
		Known: func(kv *mvccpb.KeyValue) (rev, lease int64, ok bool) {
			ok = c.knownHead(kv)
			return kv.ModRevision, kv.Lease, ok
		},
	}
	for _, m := range c.members {
		cfg.Members = append(cfg.Members, lease.Member{Name: m.name, Txn: m.txn})
	}
	return cfg
}

func (s *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (_ *pb.LeaseGrantResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("LeaseGrant", start, err) }()
	id, ttl, err := s.c.leases.Grant(ctx, r.ID, r.TTL)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	h, err := s.c.presentHeader(ctx)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	return &pb.LeaseGrantResponse{Header: h, ID: id, TTL: ttl}, nil
}

func (s *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (_ *pb.LeaseRevokeResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("LeaseRevoke", start, err) }()
	rev, err := s.c.leases.Revoke(ctx, r.ID)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	h := s.c.header()
	if h.Revision = rev; rev == 0 {
		if h, err = s.c.presentHeader(ctx); err != nil {
			return nil, s.fault(ctx, err)
		}
	}
	return &pb.LeaseRevokeResponse{Header: h}, nil
}

func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (_ *pb.LeaseTimeToLiveResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("LeaseTimeToLive", start, err) }()
	left, ttl, keys, err := s.c.leases.TimeToLive(ctx, r.ID, r.Keys)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	return &pb.LeaseTimeToLiveResponse{Header: s.c.knownHeader(), ID: r.ID, TTL: left, GrantedTTL: ttl, Keys: keys}, nil
}

func (s *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (_ *pb.LeaseLeasesResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("LeaseLeases", start, err) }()
	ids, err := s.c.leases.Leases(ctx)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	resp := &pb.LeaseLeasesResponse{Header: s.c.knownHeader(), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		resp.Leases[i] = &pb.LeaseStatus{ID: id}
	}
	return resp, nil
}

// LeaseKeepAlive renews leases as their requests come, without waiting for one before the next: a lease that has ended is
// answered when its keys are gone, which may take.
func (s *leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	out := &outbox{woken: make(chan struct{}, 1)}
	received, sent := make(chan error, 1), make(chan error, 1) // both end with the stream, when this returns
	go func() { received <- s.renew(stream, out) }()
	go func() { sent <- out.send(stream) }()
	for {
		select {
		case err := <-received:
			if err != nil {
				return err
			}
			received = nil // the answers go out first
		case err := <-sent:
			return err
		case <-s.c.ctx.Done():
			return grpcError(s.c.whyOver())
		}
	}
}

// renew starts a renewal for every request, until there are no more.
func (s *leaseServer) renew(stream pb.Lease_LeaseKeepAliveServer, out *outbox) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			out.last()
			return nil
		}
		if err != nil {
			return err
		}
		// As in etcd, the header is older than the renewal: a lease that was revoked later was not renewed later.
		resp := &pb.LeaseKeepAliveResponse{Header: s.c.knownHeader(), ID: r.ID}
		out.expect()
		s.c.leases.Renew(r.ID, func(ttl int64) {
			resp.TTL = ttl
			out.add(resp)
		})
	}
}

// outbox keeps answers for the one goroutine that may send them. Safe for concurrent use.
type outbox struct {
	woken chan struct{}

	mu       sync.Mutex
	answers  []*pb.LeaseKeepAliveResponse
	expected int  // answers that have not been added yet
	closed   bool // no more of them
}

func (o *outbox) expect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expected++
}

func (o *outbox) add(resp *pb.LeaseKeepAliveResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expected--
	o.answers = append(o.answers, resp)
	o.wake()
}

func (o *outbox) last() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// send sends answers as they come, until the last one has gone or the stream ends.
func (o *outbox) send(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		o.mu.Lock()
		answers, done := o.answers, o.closed && o.expected == 0
		o.answers = nil
		o.mu.Unlock()
		for _, resp := range answers {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		select {
		case <-o.woken:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// presentHeader is a header that covers everything acknowledged before the call, by any process.
func (c *core) presentHeader(ctx context.Context) (*pb.ResponseHeader, error) {
	h := c.header()
	err := c.current(ctx, func(f *feed) (err error) {
		h.Revision, err = c.linearize(ctx, f)
		return err
	})
	return h, err
}

// leasesOf prepares a run to be built: it names the records of its leases, as this process knows them on the run's member.
// False: one does not live, or is unknown.
func (w *writer) leasesOf(run *translate.Run) bool {
	for _, id := range run.Leases() {
		rec, ok := w.c.leases.Book().Get(w.member.index, id)
		if !ok || rec.Dead {
			return false
		}
		if run.Records == nil {
			run.Records = map[int64][]byte{}
		}
		run.Records[id] = rec.Encode()
	}
	return true
}

// lookAtLeases reads the records of the leases that the transaction names, or its keys kept in the last attempt, and this process does
// not know, or may know wrongly.
func (w *writer) lookAtLeases(ctx context.Context) error {
	ids := w.plan.Leases
	if w.run != nil {
		ids = append(slices.Clip(ids), w.run.Kept...)
	}
	for _, id := range ids {
		if _, ok := w.c.leases.Book().Get(w.member.index, id); ok && !w.stale {
			continue
		}
		if _, _, err := w.c.leases.Look(ctx, w.member.index, id); err != nil {
			return err
		}
	}
	return nil
}

// deadLeases returns those of a plan's leases that do not exist.
func (c *core) deadLeases(ctx context.Context, plan *translate.Plan) ([]int64, error) {
	if len(plan.Leases) == 0 {
		return nil, nil
	}
	return c.leases.Dead(ctx, plan.Leases)
}

// attachesTo is etcd's error of a run that attaches a key to one of the leases, which do not exist.
func attachesTo(run *translate.Run, dead []int64) error {
	if run.AttachesTo(dead) {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return nil
}

// settleKept makes sure of the leases that a run's keys keep: those that live have all their records, and those that have ended have lost
// their keys.
func (c *core) settleKept(ctx context.Context, run *translate.Run) error {
	if len(run.Kept) == 0 {
		return nil
	}
	_, err := c.leases.Dead(ctx, run.Kept)
	return err
}

// dropEntriesBehind removes, behind the caller's back, the entries of leased keys that a range delete at stamp has removed: it
// did not know them. Nothing depends on it; otherwise they stay until their leases end.
func (c *core) dropEntriesBehind(stamp int64) {
	c.spawn(func() {
		f, err := c.feedFor(c.ctx)
		if err != nil || f.log.WaitClosed(c.ctx, stamp) != nil {
			return
		}
		evs, _, err := f.log.Since(stamp, 1)
		if err != nil {
			return
		}
		stale := make([][]lease.Entry, len(c.members))
		for _, ev := range evs {
			if ev.Rev == stamp && ev.Type == mvccpb.Event_DELETE && ev.PrevKv.GetLease() != 0 {
				stale[ev.Member] = append(stale[ev.Member], lease.Entry{Lease: ev.PrevKv.Lease, Key: ev.Kv.Key})
			}
		}
		for m, entries := range stale {
			if err := c.leases.Drop(c.ctx, m, entries); err != nil && c.ctx.Err() == nil {
				c.cfg.Logger.Debug("entries of leases stay until these end", zap.Error(err))
			}
		}
	})
}

const (
	// keysAtOnce bounds the keys of a lease that are deleted at one revision, and bytesAtOnce what they take of the request
	// that decides it. Larger leases end in several steps. Members that take few operations bound the keys further:
	// each takes two, and all of them a few.
	keysAtOnce  = 4096
	bytesAtOnce = 512 << 10
)

// deleteAttached deletes the keys of a lease that are still as they were seen: attached to it. One that was put or
// deleted since is left alone. It returns the last revision that it took.
func (c *core) deleteAttached(ctx context.Context, keys []lease.Attached) (int64, error) {
	var last int64
	keys = slices.SortedFunc(slices.Values(keys), func(a, b lease.Attached) int { return bytes.Compare(a.Key, b.Key) }) // as in etcd
	most := min(keysAtOnce, translate.Room(c.cfg.MemberTxnOps)/3)
	for len(keys) > 0 {
		req := &pb.TxnRequest{}
		for size := 0; len(keys) > 0 && len(req.Success) < most && size < bytesAtOnce; keys = keys[1:] {
			req.Success = append(req.Success, deleteIfAt(keys[0].Key, keys[0].Rev))
			size += 2 * len(keys[0].Key) // and its entry
		}
		resp, err := c.write(ctx, req)
		if err != nil {
			return last, err
		}
		last = max(last, resp.Header.Revision)
		c.metrics.reapedKeys.Add(float64(deleted(resp)))
	}
	return last, nil
}

// deleted counts the keys that deletes under conditions have deleted.
func deleted(resp *pb.TxnResponse) (n int64) {
	for _, r := range resp.Responses {
		for _, d := range r.GetResponseTxn().GetResponses() {
			n += d.GetResponseDeleteRange().GetDeleted()
		}
	}
	return n
}

// deleteIfAt deletes a key if it is as it was put at rev.
func deleteIfAt(key []byte, rev int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
	}}}
}
