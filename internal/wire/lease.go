package wire

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/hedge"
)

// Lease is the Lease service of the cluster. Grants and revocations are sent once, and fail with Unavailable when their server hangs: they
// may have been carried out. Another server is asked for what a lease has left when one is late.
func (s *Servers) Lease() pb.LeaseClient {
	return &lease{LeaseClient: newLease(connOf(s.cli)), servers: s}
}

type lease struct {
	pb.LeaseClient
	servers *Servers
	pace    hedge.Pace // of LeaseTimeToLive
}

func newLease(c grpc.ClientConnInterface) pb.LeaseClient { return pb.NewLeaseClient(c) }

func (l *lease) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return write(ctx, l.servers, l.LeaseClient, newLease, func(ctx context.Context, via pb.LeaseClient) (*pb.LeaseGrantResponse, error) {
		return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
			return via.LeaseGrant(ctx, in, append(slices.Clip(opts), once...)...)
		})
	})
}

func (l *lease) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return write(ctx, l.servers, l.LeaseClient, newLease, func(ctx context.Context, via pb.LeaseClient) (*pb.LeaseRevokeResponse, error) {
		return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
			return via.LeaseRevoke(ctx, in, append(slices.Clip(opts), once...)...)
		})
	})
}

func (l *lease) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	return read(ctx, l.servers.cli, &l.pace, in, func(ctx context.Context, in *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
		return l.LeaseClient.LeaseTimeToLive(ctx, in, slices.Clip(opts)...)
	})
}
