package engine

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/validate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

func (e *Engine) commitConfig() commit.Config {
	cfg := commit.Config{
		Clock: e.Clock, Doubts: e.doubts, MaxTxnOps: e.maxTxnOps, Timeout: e.timeout, Logger: e.logger,
		Grace:     e.grace,
		Closed:    e.Feeds.Closed,
		OnBatch:   e.Metrics.Batch,
		OnRefusal: e.Metrics.Refusal,
	}
	for _, m := range e.Members {
		cfg.Members = append(cfg.Members, commit.Member{Name: m.Name, Txn: m.Send, States: m.States, Present: m.Revision, Raise: func(ctx context.Context, epoch, stamp int64) error {
			r, err := m.Raise(ctx, epoch, stamp)
			if err == nil {
				e.Feeds.FenceHolds(m.Index, r)
			}
			return err
		}})
	}
	return cfg
}

func (e *Engine) clockConfig(coordinator pb.KVClient) clock.Config {
	cfg := clock.Config{
		Coordinator: coordinator, ClusterID: e.id.ClusterID, CoordinatorID: e.id.CoordinatorID,
		Highest: e.Feeds.Highest, Logger: e.logger,
		Alone:   len(e.cfg.Coordinator.Endpoints()) < 2,
		Unused:  func(first, k, epoch int64) { e.commit.SurrenderAll(first, k, epoch) },
		Restore: func(ctx context.Context, life []*pb.Compare) error { return e.Leases.Restore(ctx, life) },
	}
	for _, m := range e.Members {
		cfg.Members = append(cfg.Members, clock.Member{Name: m.Name, KV: m.KV})
	}
	cfg.Hooks = e.Metrics.ClockHooks()
	return cfg
}

func (e *Engine) leaseConfig() lease.Config {
	cli := e.cfg.Coordinator
	servers := wire.NewServers(e.Life, cli)
	e.servers = append(e.servers, servers)
	cfg := lease.Config{
		Clock: e.Clock, KV: servers.KV(), Lease: servers.Lease(),
		Watch: e.cfg.LeaseEnds,
		Delete: func(ctx context.Context, keys []lease.Attached) (int64, error) {
			return e.Writes.DeleteAttached(ctx, keys)
		}, MaxTxnOps: min(validate.MaxTxnOps, e.maxTxnOps), Logger: e.logger,
		OnReaped: e.Metrics.Reaps.Inc,
		Known: func(kv *mvccpb.KeyValue) (rev, lease int64, ok bool) {
			ok = e.Reads.KnownHead(kv)
			return kv.ModRevision, kv.Lease, ok
		},
	}
	if cfg.Watch == nil {
		cfg.Watch = func() clientv3.Watcher { return clientv3.NewWatcher(cli) }
	}
	for _, m := range e.Members {
		cfg.Members = append(cfg.Members, lease.Member{Name: m.Name, Txn: m.Txn})
	}
	return cfg
}

// grace is how long a missing stamp is waited for at present.
func (e *Engine) grace() time.Duration {
	if f := e.Feeds.Now(); f != nil {
		return f.Fencer.Grace()
	}
	return feed.MinGrace
}

// supervise opens a new feed when compaction overtook the last one; any other end is fatal.
func (e *Engine) supervise(f *feed.Feed) {
	for {
		select {
		case <-f.Done():
		case <-e.Life.Context().Done():
			return
		}
		if err := f.Err(); !errors.Is(err, mergedlog.ErrOverrun) {
			e.fail(err)
			return
		}
		e.Feeds.Set(nil)
		f.Close()
		next, err := e.reopen()
		if err != nil {
			return
		}
		f = next
		e.Feeds.Set(f)
	}
}

// reopenAfter is how long the opening of a feed rests after it failed.
const reopenAfter = time.Second

// reopen opens a feed, again until it works or the process is over.
func (e *Engine) reopen() (*feed.Feed, error) {
	for first := true; ; first = false {
		f, err := feed.Open(e.Life.Context(), &e.feedCfg)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, feed.ErrFatal):
			e.fail(err)
			return nil, err
		}
		if first {
			e.logger.Warn("could not reopen the merged log; trying again", zap.Error(err))
		}
		if overrun := errors.Is(err, mergedlog.ErrOverrun); overrun && !e.Life.Over() {
			continue
		}
		if err := lifetime.Pause(e.Life.Context(), reopenAfter); err != nil {
			return nil, err
		}
	}
}

// openFirst opens the first feed, again where compaction overtakes it.
func (e *Engine) openFirst(ctx context.Context) (*feed.Feed, error) {
	for {
		f, err := feed.Open(ctx, &e.feedCfg)
		if err == nil || !errors.Is(err, mergedlog.ErrOverrun) || ctx.Err() != nil {
			return f, err
		}
		e.logger.Info("compaction overtook the opening of the merged log; it is opened again", zap.Error(err))
	}
}
