package metaetcd

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// watchServer is etcd's Watch service: each stream is served by the feed that is there when it begins.
type watchServer struct {
	pb.UnsafeWatchServer
	c *core
}

var _ pb.WatchServer = (*watchServer)(nil)

// Watch implements pb.WatchServer.
func (s *watchServer) Watch(stream pb.Watch_WatchServer) error {
	f, err := s.c.feedFor(stream.Context())
	if err != nil {
		return grpcError(err)
	}
	return f.hub.Watch(stream)
}

// source is a feed as its watchers see it.
type source struct{ f *feed }

func (s source) Closed() int64    { return s.f.log.Closed() }
func (s source) Compacted() int64 { return s.f.c.compacted.Load() }
func (s source) Told() int64      { return s.f.c.known() }
func (s source) Passed(rev int64) {
	raise(&s.f.passed, rev)
	s.f.forget()
}
func (s source) Await(rev int64)            { s.f.await(min(rev, s.Told())) }
func (s source) Advanced() <-chan struct{}  { return s.f.log.Advanced() }
func (s source) Header() *pb.ResponseHeader { return s.f.c.header() }
func (s source) Done() <-chan struct{}      { return s.f.ended }

func (s source) Since(from int64, maxEvents int) ([]*mergedlog.Event, int64, error) {
	return s.f.log.Since(from, maxEvents)
}

func (s source) Replay(ctx context.Context, key, end []byte, from, to int64, fn func(evs []*mergedlog.Event) error) error {
	ctx, cancel := s.f.c.whileOpen(ctx)
	defer cancel()
	return s.f.history.Replay(ctx, key, end, from, to, fn)
}

// Err says why the feed ended. Where compaction overtook it, that is for its watchers what it is in etcd.
func (s source) Err() error {
	if !s.f.over() {
		return nil
	}
	<-s.f.ended
	if errors.Is(s.f.err, mergedlog.ErrOverrun) {
		return &watchhub.CompactedError{Rev: s.Compacted()}
	}
	return s.f.err
}
