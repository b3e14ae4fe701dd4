package feed

import (
	"context"
	"errors"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// source is a feed as its watchers see it.
type source struct{ f *Feed }

func (s source) Closed() int64 { return s.f.Log.Closed() }

func (s source) Advanced() <-chan struct{} { return s.f.Log.Advanced() }

func (s source) Done() <-chan struct{} { return s.f.Ended }

func (s source) Since(from int64, maxEvents int) ([]*mergedlog.Event, int64, error) {
	return s.f.Log.Since(from, maxEvents)
}

func (s source) Replay(ctx context.Context, key, end []byte, from, to int64, fn func(evs []*mergedlog.Event) error) error {
	ctx, cancel := s.f.cfg.Life.Within(ctx)
	defer cancel()
	return s.f.history.Replay(ctx, key, end, from, to, fn)
}

// Err says why the feed ended. Where compaction overtook it, that is for its watchers what it is in etcd.
func (s source) Err() error {
	if !s.f.Over() {
		return nil
	}
	<-s.f.Ended
	if errors.Is(s.f.Err, mergedlog.ErrOverrun) {
		return &watchhub.CompactedError{Rev: s.Compacted()}
	}
	return s.f.Err
}
