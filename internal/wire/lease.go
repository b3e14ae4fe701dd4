package wire

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Lease is the Lease service of the cluster that cli is connected to. Grants and revocations are sent once.
func Lease(cli *clientv3.Client) pb.LeaseClient {
	return lease{pb.NewLeaseClient(connOf(cli))}
}

type lease struct{ pb.LeaseClient }

func (l lease) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
		return l.LeaseClient.LeaseGrant(ctx, in, append(opts, once...)...)
	})
}

func (l lease) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
		return l.LeaseClient.LeaseRevoke(ctx, in, append(opts, once...)...)
	})
}
