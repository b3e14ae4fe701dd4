package metaetcd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// firstKeepAlive is how long the first keep-alive of a lease may take. clientv3 makes its default of it, 5 seconds.
const firstKeepAlive = time.Second

// Grant creates a lease that ends when it is not kept alive for ttl seconds; the answer has the TTL that the coordinator made of it, which is
// longer where ttl is shorter than etcd's least. It needs the coordinator and every member. Errors are etcd's, among them
// rpctypes.ErrLeaseTTLTooLarge.
func (c *Client) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return c.lessor.Grant(ctx, ttl)
}

// Revoke ends a lease, and returns when its keys are deleted, on all members. The keys go at one revision, that of the answer; a lease
// with more than 4,096 keys, or fewer where Config.MemberTxnOps says so, ends at several, of which this is the last. It fails with
// rpctypes.ErrLeaseNotFound if there is no such lease. It needs the coordinator and every member.
func (c *Client) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return c.lessor.Revoke(ctx, id)
}

// TimeToLive returns the seconds that a lease has left, -1 if there is no such lease, and those that it was granted. With
// [clientv3.WithAttachedKeys] the answer has the lease's keys, of all members, sorted; that needs every member, and the rest the coordinator
// alone.
func (c *Client) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return c.lessor.TimeToLive(ctx, id, opts...)
}

// Leases returns all leases, those first that end first. It needs the coordinator alone.
func (c *Client) Leases(ctx context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return c.lessor.Leases(ctx)
}

// KeepAlive keeps a lease alive until ctx ends or the client is closed. The channel carries the answers and has to be read; those that find it
// full are dropped. It is closed with ctx, with the client, and when the lease has ended. Keep-alives need the coordinator alone. While it
// does not answer, they are repeated; when it has lost its data, the lease goes on with its full TTL.
func (c *Client) KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	return c.lessor.KeepAlive(ctx, id)
}

// KeepAliveOnce gives a lease its full TTL once more. It fails with rpctypes.ErrLeaseNotFound if the lease has ended.
func (c *Client) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	return c.lessor.KeepAliveOnce(ctx, id)
}

// leaseServer is etcd's Lease service over the meta cluster.
type leaseServer struct {
	pb.UnsafeLeaseServer
	e     *engine.Engine
	names bool // see kvServer
}

func (s *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (_ *pb.LeaseGrantResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("LeaseGrant", start, err) }()
	id, ttl, err := s.e.Leases.Grant(ctx, r.ID, r.TTL)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	h, err := s.e.Reads.LinearizableHeader(ctx)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	return &pb.LeaseGrantResponse{Header: h, ID: id, TTL: ttl}, nil
}

func (s *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (_ *pb.LeaseRevokeResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("LeaseRevoke", start, err) }()
	rev, err := s.e.Leases.Revoke(ctx, r.ID)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	h := s.e.Feeds.Header()
	if h.Revision = rev; rev == 0 {
		if h, err = s.e.Reads.LinearizableHeader(ctx); err != nil {
			return nil, s.fault(ctx, err)
		}
	}
	return &pb.LeaseRevokeResponse{Header: h}, nil
}

func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (_ *pb.LeaseTimeToLiveResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("LeaseTimeToLive", start, err) }()
	left, ttl, keys, err := s.e.Leases.TimeToLive(ctx, r.ID, r.Keys)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	return &pb.LeaseTimeToLiveResponse{Header: s.e.Feeds.KnownHeader(), ID: r.ID, TTL: left, GrantedTTL: ttl, Keys: keys}, nil
}

func (s *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (_ *pb.LeaseLeasesResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("LeaseLeases", start, err) }()
	ids, err := s.e.Leases.Leases(ctx)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	resp := &pb.LeaseLeasesResponse{Header: s.e.Feeds.KnownHeader(), Leases: make([]*pb.LeaseStatus, len(ids))}
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
		case <-s.e.Life.Context().Done():
			return grpcError(s.e.Life.Cause())
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
		resp := &pb.LeaseKeepAliveResponse{Header: s.e.Feeds.KnownHeader(), ID: r.ID}
		out.expect()
		s.e.Leases.Renew(r.ID, func(ttl int64) {
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
	lifetime.Wake(o.woken)
}

func (o *outbox) last() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	lifetime.Wake(o.woken)
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

func (s *leaseServer) fault(ctx context.Context, err error) error {
	return named(s.names, grpcError(s.e.Over(ctx, err)))
}

var _ pb.LeaseServer = (*leaseServer)(nil)
