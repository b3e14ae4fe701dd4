package etcdfake

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// Dial returns a real client of the server, connected through memory by gRPC, and what closes both ends. It has the KV, Watch and
// Lease services; leases do not run out. Everything runs in the caller's synctest bubble, if there is one. The server keeps its
// history from now on. The interceptor stands in front of the KV service, on the server's side, and may be nil.
func (s *Server) Dial(via Interceptor, opts ...grpc.DialOption) (*clientv3.Client, func(), error) {
	s.KeepHistory()
	pipe := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, &kvServer{kv: client{s: s, via: via}})
	pb.RegisterWatchServer(server, &watchServer{s: s})
	pb.RegisterLeaseServer(server, &leaseServer{s: s})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(pipe) })
	stop := func() {
		server.Stop()
		serving.Wait()
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://fake"}, Logger: zap.NewNop(),
		DialOptions: append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) })),
	})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return cli, func() {
		_ = cli.Close()
		stop()
	}, nil
}

// kvServer is the KV service.
type kvServer struct {
	pb.UnimplementedKVServer
	kv client
}

func (k *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return k.kv.Range(ctx, r)
}

func (k *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return k.kv.Put(ctx, r)
}

func (k *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return k.kv.DeleteRange(ctx, r)
}

func (k *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return k.kv.Txn(ctx, r)
}

func (k *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return k.kv.Compact(ctx, r)
}

// watchServer is the Watch service. It knows ranges, previous pairs and the filters, and sends each revision in a response.
type watchServer struct {
	pb.UnimplementedWatchServer
	s *Server
}

func (w *watchServer) Watch(stream pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	var watches sync.WaitGroup
	defer watches.Wait()
	defer cancel(nil)
	var mu sync.Mutex
	send := func(resp *pb.WatchResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(resp)
	}
	asked := make(chan *pb.WatchRequest)
	go func() { // it ends with the stream
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if r == nil {
				cancel(err)
				return
			}
			select {
			case asked <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	for id := int64(0); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case r := <-asked:
			if create := r.GetCreateRequest(); create != nil {
				mine := id
				id++
				watches.Go(func() {
					if err := w.follow(ctx, mine, create, send); err != nil {
						cancel(err)
					}
				})
			} else if r.GetProgressRequest() != nil {
				_ = send(&pb.WatchResponse{Header: w.header(), WatchId: -1})
			}
		}
	}
}

func (w *watchServer) header() *pb.ResponseHeader {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.header()
}

// follow serves one watch until its stream ends, or the server is down.
func (w *watchServer) follow(ctx context.Context, id int64, r *pb.WatchCreateRequest, send func(*pb.WatchResponse) error) error {
	h := w.header()
	if err := send(&pb.WatchResponse{Header: h, WatchId: id, Created: true}); err != nil {
		return err
	}
	for from := max(r.StartRevision, 0); ; {
		if from == 0 {
			from = h.Revision + 1
		}
		found, more, err := w.s.since(from)
		if errors.Is(err, rpctypes.ErrGRPCCompacted) {
			return send(&pb.WatchResponse{Header: w.header(), WatchId: id, Canceled: true, CompactRevision: w.s.Compacted()})
		}
		if err != nil {
			return err
		}
		for _, rev := range found {
			from = rev.left.rev + 1
			resp := &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: h.ClusterId, Revision: rev.left.rev}, WatchId: id, Events: chosen(r, rev.events)}
			if len(resp.Events) == 0 {
				continue
			}
			if err := send(resp); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// chosen are the events that a watch is for.
func chosen(r *pb.WatchCreateRequest, events []*mvccpb.Event) (out []*mvccpb.Event) {
	in := keyrange.Of(r.Key, r.RangeEnd)
	for _, ev := range events {
		left := false
		for _, f := range r.Filters {
			left = left || (f == pb.WatchCreateRequest_NODELETE) == (ev.Type == mvccpb.Event_DELETE)
		}
		if left || !in.Contains(ev.Kv.Key) {
			continue
		}
		if !r.PrevKv {
			ev = &mvccpb.Event{Type: ev.Type, Kv: ev.Kv}
		}
		out = append(out, ev)
	}
	return out
}

// leaseServer is the Lease service of leases that do not run out.
type leaseServer struct {
	pb.UnimplementedLeaseServer
	s   *Server
	ttl sync.Map // by id
}

func (l *leaseServer) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if _, there := l.ttl.LoadOrStore(r.ID, r.TTL); there {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	l.s.Grant(r.ID)
	return &pb.LeaseGrantResponse{ID: r.ID, TTL: r.TTL}, nil
}

func (l *leaseServer) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	l.ttl.Delete(r.ID)
	if !l.s.End(r.ID) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &pb.LeaseRevokeResponse{}, nil
}

func (l *leaseServer) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	resp := &pb.LeaseLeasesResponse{}
	l.ttl.Range(func(id, _ any) bool {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id.(int64)})
		return true
	})
	return resp, nil
}

func (l *leaseServer) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	ttl, there := l.ttl.Load(r.ID)
	if !there {
		return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
	}
	return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: ttl.(int64), GrantedTTL: ttl.(int64)}, nil
}

// LeaseKeepAlive answers renewals in their order; one of a lease that does not exist with a TTL of 0.
func (l *leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp := &pb.LeaseKeepAliveResponse{ID: r.ID}
		if ttl, there := l.ttl.Load(r.ID); there {
			resp.TTL = ttl.(int64)
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
