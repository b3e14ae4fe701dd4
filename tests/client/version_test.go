package client

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestVersionOfServers: New refuses an etcd that says it is too old, and does not mind one that does not say.
func TestVersionOfServers(t *testing.T) {
	t.Parallel()
	var (
		version string     // that Status tells
		code    codes.Code // that it ends with
	)
	cluster := newCluster(t, 2, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				err := invoke(ctx, method, req, reply, conn, opts...)
				if resp, ok := reply.(*pb.StatusResponse); ok && err == nil {
					resp.Version = version
					return status.Error(code, "not for you")
				}
				return err
			}))
	}))
	open := func() error {
		cli, err := metaetcd.New(within(t, patience), cluster.Config())
		if err == nil {
			err = cli.Close()
		}
		return err
	}

	version = "3.4.30"
	err := open()
	require.ErrorIs(t, err, metaetcd.ErrVersion)
	require.ErrorContains(t, err, "want 3.5 or later: got 3.4.30")

	for _, code = range []codes.Code{codes.Unimplemented, codes.PermissionDenied} {
		require.NoError(t, open())
	}
	version, code = "", codes.OK
	require.NoError(t, open(), "who tells nothing")
}
