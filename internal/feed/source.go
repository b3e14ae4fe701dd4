package feed

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// source is a feed as its watchers see it: a watchhub.Source.
type source struct{ f *Feed }

func (s source) Closed() int64 { return s.f.Log.Closed() }

func (s source) Advanced() <-chan struct{} { return s.f.Log.Advanced() }

func (s source) Done() <-chan struct{} { return s.f.Done() }

func (s source) Since(from int64, maxEvents int) ([]*mergedlog.Event, int64, error) {
	return s.f.Log.Since(from, maxEvents)
}

func (s source) Replay(ctx context.Context, key, end []byte, from, to int64, fn func(evs []*mergedlog.Event) error) error {
	ctx, cancel := s.f.cfg.Life.Within(ctx)
	defer cancel()
	return s.f.history.Replay(ctx, key, end, from, to, fn)
}

func (s source) ReplayKey(ctx context.Context, key []byte, from, to int64, fn func(evs []*mergedlog.Event) error) (bool, error) {
	ctx, cancel := s.f.cfg.Life.Within(ctx)
	defer cancel()
	return s.f.history.ReplayKey(ctx, key, from, to, fn)
}

func (s source) Compacted() int64 { return s.f.cfg.Feeds.Compacted.Load() }

func (s source) Told() int64 { return s.f.cfg.Feeds.Known() }

func (s source) Await(rev int64) { s.f.Await(min(rev, s.Told())) }

func (s source) Header() *pb.ResponseHeader { return s.f.cfg.Feeds.Header() }

func (s source) Passed(rev int64) {
	s.f.passed.Raise(rev)
	s.f.Forget()
}

func (s source) Floor() int64 { return s.f.Log.Floor() }

func (s source) ReplayTo() int64 { return s.f.Log.ReplayTo() }

func (s source) Needs(rev int64) { s.f.Log.Needs(rev) }

// Err says why the feed ended. Where compaction overtook it, that is for its watchers what it is in etcd.
func (s source) Err() error {
	if !s.f.Over() {
		return nil
	}
	<-s.Done()
	err := s.f.Err()
	if errors.Is(err, mergedlog.ErrOverrun) {
		return &watchhub.CompactedError{Rev: s.Compacted()}
	}
	return err
}
