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

func (c *Engine) commitConfig() commit.Config {
	cfg := commit.Config{
		Clock: c.Clock, Doubts: c.doubts, MaxTxnOps: c.maxTxnOps, Timeout: c.timeout, Logger: c.logger,
		Grace:     c.grace,
		OnBatch:   c.Metrics.Batch,
		OnRefusal: c.Metrics.Refusal,
	}
	for _, m := range c.Members {
		cfg.Members = append(cfg.Members, commit.Member{Name: m.Name, Txn: m.Send, Present: m.Revision, Raise: func(ctx context.Context, epoch, stamp int64) error {
			r, err := m.Raise(ctx, epoch, stamp)
			if err == nil {
				c.Feeds.FenceHolds(m.Index, r)
			}
			return err
		}})
	}
	return cfg
}

func (c *Engine) clockConfig(coordinator pb.KVClient) clock.Config {
	cfg := clock.Config{
		Coordinator: coordinator, ClusterID: c.id.ClusterID, CoordinatorID: c.id.CoordinatorID,
		Highest: c.Feeds.Highest, Logger: c.logger,
		Alone:   len(c.cfg.Coordinator.Endpoints()) < 2,
		Unused:  func(first, k, epoch int64) { c.commit.SurrenderAll(first, k, epoch) },
		Restore: func(ctx context.Context, life []*pb.Compare) error { return c.Leases.Restore(ctx, life) },
	}
	for _, m := range c.Members {
		cfg.Members = append(cfg.Members, clock.Member{Name: m.Name, KV: m.KV})
	}
	cfg.Hooks = c.Metrics.ClockHooks()
	return cfg
}

func (c *Engine) leaseConfig() lease.Config {
	cli := c.cfg.Coordinator
	cfg := lease.Config{
		Clock: c.Clock, KV: wire.KV(cli), Lease: wire.Lease(cli),
		Watch: c.cfg.LeaseEnds,
		Delete: func(ctx context.Context, keys []lease.Attached) (int64, error) {
			return c.Writes.DeleteAttached(ctx, keys)
		}, MaxTxnOps: min(validate.MaxTxnOps, c.maxTxnOps), Logger: c.logger,
		OnReaped: c.Metrics.Reaps.Inc,
		Known: func(kv *mvccpb.KeyValue) (rev, lease int64, ok bool) {
			ok = c.Reads.KnownHead(kv)
			return kv.ModRevision, kv.Lease, ok
		},
	}
	if cfg.Watch == nil {
		cfg.Watch = func() clientv3.Watcher { return clientv3.NewWatcher(cli) }
	}
	for _, m := range c.Members {
		cfg.Members = append(cfg.Members, lease.Member{Name: m.Name, Txn: m.Txn})
	}
	return cfg
}

// grace is how long a missing stamp is waited for at present.
func (c *Engine) grace() time.Duration {
	if f := c.Feeds.Now(); f != nil {
		return f.Fencer.Grace()
	}
	return feed.MinGrace
}

// supervise opens a new feed when compaction overtook the last one; any other end is fatal.
func (c *Engine) supervise(f *feed.Feed) {
	for {
		select {
		case <-f.Done():
		case <-c.Life.Context().Done():
			return
		}
		if err := f.Err(); !errors.Is(err, mergedlog.ErrOverrun) {
			c.fail(err)
			return
		}
		c.Feeds.Set(nil)
		f.Close()
		next, err := c.reopen()
		if err != nil {
			return
		}
		f = next
		c.Feeds.Set(f)
	}
}

// reopenAfter is how long the opening of a feed rests after it failed.
const reopenAfter = time.Second

// reopen opens a feed, again until it works or the process is over.
func (c *Engine) reopen() (*feed.Feed, error) {
	for first := true; ; first = false {
		f, err := feed.Open(c.Life.Context(), &c.feedCfg)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, feed.ErrFatal):
			c.fail(err)
			return nil, err
		}
		if first {
			c.logger.Warn("could not reopen the merged log; trying again", zap.Error(err))
		}
		if overrun := errors.Is(err, mergedlog.ErrOverrun); overrun && !c.Life.Over() {
			continue
		}
		if err := lifetime.Pause(c.Life.Context(), reopenAfter); err != nil {
			return nil, err
		}
	}
}

// openFirst opens the first feed, again where compaction overtakes it.
func (c *Engine) openFirst(ctx context.Context) (*feed.Feed, error) {
	for {
		f, err := feed.Open(ctx, &c.feedCfg)
		if err == nil || !errors.Is(err, mergedlog.ErrOverrun) || ctx.Err() != nil {
			return f, err
		}
		c.logger.Info("compaction overtook the opening of the merged log; it is opened again", zap.Error(err))
	}
}
