package wire

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Version returns a function that asks a server of the cluster that cli is connected to for its version. It returns an empty one
// where that may not be asked, or the client has no server.
func Version(cli *clientv3.Client) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		conn := cli.ActiveConnection()
		if conn == nil {
			return "", nil
		}
		resp, err := clientv3.RetryMaintenanceClient(cli, conn).Status(ctx, &pb.StatusRequest{})
		switch status.Code(err) {
		case codes.Unimplemented, codes.PermissionDenied:
			return "", nil
		}
		return resp.GetVersion(), err
	}
}
