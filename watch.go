package metaetcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/engine"
)

// Watch satisfies clientv3.Watcher: every event of every member, in revision order.
func (c *Client) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return c.watcher.Watch(ctx, key, opts...)
}

// RequestProgress satisfies clientv3.Watcher. The revision that is announced has been delivered, with all before it.
func (c *Client) RequestProgress(ctx context.Context) error { return c.watcher.RequestProgress(ctx) }

// watchServer is etcd's Watch service: each stream is served by the feed that is there when it begins.
type watchServer struct {
	pb.UnsafeWatchServer
	e *engine.Engine
}

// Watch implements pb.WatchServer.
func (s *watchServer) Watch(stream pb.Watch_WatchServer) error {
	return grpcError(s.e.Watch(stream))
}

var _ pb.WatchServer = (*watchServer)(nil)
