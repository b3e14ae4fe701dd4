package wire

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wakeEvery is how often a connection is made to try again at most.
const wakeEvery = time.Second

// awake makes cli connect again soon whenever a request fails because nothing can be reached: whoever sent it waits. By itself a
// client rests for up to two minutes between attempts, after a long outage, though the cluster may be back.
func awake(cli *clientv3.Client) grpc.CallOption {
	conn := cli.ActiveConnection()
	var last atomic.Int64
	return grpc.OnFinish(func(err error) {
		if err == nil || status.Code(err) != codes.Unavailable {
			return
		}
		now, before := time.Now().UnixNano(), last.Load()
		if now-before >= int64(wakeEvery) && last.CompareAndSwap(before, now) {
			conn.ResetConnectBackoff()
		}
	})
}

// conn is a client's connection, kept awake.
type conn struct {
	grpc.ClientConnInterface
	awake grpc.CallOption
}

func connOf(cli *clientv3.Client) conn { return conn{cli.ActiveConnection(), awake(cli)} }

func (c conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, c.awake)...)
}

func (c conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(ctx, desc, method, append(opts, c.awake)...)
}
