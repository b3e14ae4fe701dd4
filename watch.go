package metaetcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/engine"
)

// Watch watches a key, or with [clientv3.WithRange], WithPrefix or WithFromKey a range of keys over all members. Every event comes once, in
// the order of revisions; those of one revision come in one response, unless [clientv3.WithFragment] allows several. A watch begins at the
// revision of [clientv3.WithRev], which may lie in the past or in the future, and otherwise now.
//
// The channel has to be read. It is closed when ctx ends or the client is closed, and when the watch is cancelled: the last
// response's Err says why. After rpctypes.ErrCompacted, which also comes when compaction overtakes this process, list again and
// watch from there. Options are etcd's; see [Config] for the interval of progress notifications.
func (c *Client) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return c.watcher.Watch(ctx, key, opts...)
}

// RequestProgress asks for a progress notification on the watches that were begun with this context, or with one of the same outgoing
// metadata, as in clientv3. What comes is a response without events: everything up to the revision in its header has been delivered.
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
