package wire

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/hedge"
)

// Version returns a function that asks a server of the cluster that cli is connected to for its version, and another one when that
// is late. It returns an empty one where that may not be asked, or the client has no server.
func Version(cli *clientv3.Client) func(context.Context) (string, error) {
	conn := cli.ActiveConnection()
	if conn == nil {
		return func(context.Context) (string, error) { return "", nil }
	}
	maintenance, wake, pace := clientv3.RetryMaintenanceClient(cli, conn), awake(cli), &hedge.Pace{}
	return func(ctx context.Context) (string, error) {
		resp, err := read(ctx, cli, pace, &pb.StatusRequest{}, func(ctx context.Context, in *pb.StatusRequest) (*pb.StatusResponse, error) {
			return maintenance.Status(ctx, in, wake)
		})
		switch status.Code(err) {
		case codes.Unimplemented, codes.PermissionDenied:
			return "", nil
		}
		return resp.GetVersion(), err
	}
}
