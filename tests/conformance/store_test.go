package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// store is one of the things compared, by both of its surfaces: clientv3's interfaces, which applications use, and the gRPC
// services, which take requests that clientv3 cannot make.
type store struct {
	kv      clientv3.KV
	watcher clientv3.Watcher
	lessor  clientv3.Lease
	wire    pb.KVClient
	leases  pb.LeaseClient
}

// streamed asks for a range by RangeStream.
type streamed struct{ *pb.RangeRequest }

// errUnexpressible: the request must take the other surface.
var errUnexpressible = errors.New("clientv3 cannot express the request")

func plainStore(t *testing.T) *store {
	t.Helper()
	cli := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync()).DirectClient(t)
	return newStore(cli, cli, cli, cli.ActiveConnection())
}

// metaStore serves a client of the meta cluster on a gRPC server, as a proxy would.
func metaStore(t *testing.T, cli *metaetcd.Client) *store {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	cli.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-served)
	})
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return newStore(cli, cli, cli, conn)
}

func newStore(kv clientv3.KV, w clientv3.Watcher, l clientv3.Lease, conn grpc.ClientConnInterface) *store {
	return &store{kv: kv, watcher: w, lessor: l, wire: pb.NewKVClient(conn), leases: pb.NewLeaseClient(conn)}
}

// do runs one request. Errors are clientv3's, whatever the surface.
func (s *store) do(ctx context.Context, req any, wire bool) (proto.Message, error) {
	if !wire {
		resp, err := s.viaClient(ctx, req)
		if !errors.Is(err, errUnexpressible) {
			return resp, err
		}
	}
	resp, err := s.viaWire(ctx, req)
	if err != nil {
		return nil, rpctypes.Error(err)
	}
	return resp, nil
}

func (s *store) viaWire(ctx context.Context, req any) (proto.Message, error) {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return s.wire.Range(ctx, req)
	case streamed:
		stream, err := s.wire.RangeStream(ctx, req.RangeRequest)
		if err != nil {
			return nil, err
		}
		return collect(stream)
	case *pb.PutRequest:
		return s.wire.Put(ctx, req)
	case *pb.DeleteRangeRequest:
		return s.wire.DeleteRange(ctx, req)
	case *pb.TxnRequest:
		return s.wire.Txn(ctx, req)
	case *pb.CompactionRequest:
		return s.wire.Compact(ctx, req)
	case *pb.LeaseGrantRequest:
		return s.leases.LeaseGrant(ctx, req)
	case *pb.LeaseRevokeRequest:
		return s.leases.LeaseRevoke(ctx, req)
	case *pb.LeaseTimeToLiveRequest:
		return s.leases.LeaseTimeToLive(ctx, req)
	case *pb.LeaseLeasesRequest:
		return s.leases.LeaseLeases(ctx, req)
	case renewed:
		return s.renew(ctx, req)
	}
	panic(fmt.Sprintf("unknown request %T", req))
}

func (s *store) viaClient(ctx context.Context, req any) (proto.Message, error) {
	switch req := req.(type) {
	case streamed:
		return s.getStream(ctx, req.RangeRequest)
	case *pb.CompactionRequest:
		var opts []clientv3.CompactOption
		if req.Physical {
			opts = append(opts, clientv3.WithCompactPhysical())
		}
		resp, err := s.kv.Compact(ctx, req.Revision, opts...)
		return (*pb.CompactionResponse)(resp), err
	case *pb.TxnRequest:
		cmps, then, otherwise, err := txnOps(req)
		if err != nil {
			return nil, err
		}
		resp, err := s.kv.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		return (*pb.TxnResponse)(resp), err
	}
	if resp, err := s.viaLessor(ctx, req); !errors.Is(err, errNoLease) {
		return resp, err
	}
	op, err := requestOp(req)
	if err != nil {
		return nil, err
	}
	resp, err := s.kv.Do(ctx, op)
	if err != nil {
		return nil, err
	}
	switch req.(type) {
	case *pb.RangeRequest:
		return (*pb.RangeResponse)(resp.Get()), nil
	case *pb.PutRequest:
		return (*pb.PutResponse)(resp.Put()), nil
	default:
		return (*pb.DeleteRangeResponse)(resp.Del()), nil
	}
}

// errNoLease: the request is not about a lease.
var errNoLease = errors.New("no request about a lease")

func (s *store) viaLessor(ctx context.Context, req any) (proto.Message, error) {
	switch req := req.(type) {
	case *pb.LeaseGrantRequest, renewed, *pb.LeaseLeasesRequest: // with an id that is chosen; an error instead of the answer; without the type of the answer
		return nil, errUnexpressible
	case *pb.LeaseRevokeRequest:
		resp, err := s.lessor.Revoke(ctx, clientv3.LeaseID(req.ID))
		return (*pb.LeaseRevokeResponse)(resp), err
	case *pb.LeaseTimeToLiveRequest:
		resp, err := s.lessor.TimeToLive(ctx, clientv3.LeaseID(req.ID), clientv3.WithAttachedKeys())
		if err != nil {
			return nil, err
		}
		return &pb.LeaseTimeToLiveResponse{Header: resp.ResponseHeader, ID: int64(resp.ID), TTL: resp.TTL, GrantedTTL: resp.GrantedTTL, Keys: resp.Keys}, nil
	}
	return nil, errNoLease
}

// renew keeps a lease alive once.
func (s *store) renew(ctx context.Context, req renewed) (proto.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.leases.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req.LeaseKeepAliveRequest); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return stream.Recv()
}

func (s *store) getStream(ctx context.Context, req *pb.RangeRequest) (proto.Message, error) {
	chunks, err := s.kv.GetStream(ctx, string(req.Key), getOpts(req)...)
	if err != nil {
		return nil, err
	}
	resp, err := clientv3.GetStreamToGetResponse(chunks)
	for range chunks { // the producer blocks until the channel is drained
	}
	return (*pb.RangeResponse)(resp), err
}

// collect merges the chunks of a stream.
func collect(stream grpc.ServerStreamingClient[pb.RangeStreamResponse]) (*pb.RangeResponse, error) {
	resp := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return resp, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(resp, chunk.RangeResponse)
	}
}

// leaseChecked is the one difference in errors that is allowed: of a request that is wrong in two ways, etcd reports a lease that
// does not exist where it comes first, the meta cluster only when nothing else is wrong, as leases are known to their members
// alone.
func leaseChecked(plain, meta error) bool {
	return sameError(plain, rpctypes.ErrLeaseNotFound) &&
		(sameError(meta, rpctypes.ErrKeyNotFound) || sameError(meta, rpctypes.ErrCompacted) || sameError(meta, rpctypes.ErrFutureRev))
}

// sameError compares errors the way applications do: etcd's own by identity, others by code and text.
func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	var ea, eb rpctypes.EtcdError
	if errors.As(a, &ea) && errors.As(b, &eb) {
		return ea == eb
	}
	return status.Code(a) == status.Code(b) && a.Error() == b.Error()
}
