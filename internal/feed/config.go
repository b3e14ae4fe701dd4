package feed

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// Config is what the feeds of a process work with, one after the other. All of it outlives them.
type Config struct {
	Life        *lifetime.Life // of the process
	Feeds       *Current
	Members     []*member.Member // in the order of names
	CompactedOn *member.Member   // the member whose record `compacted` counts
	Ring        *ring.Ring
	Clock       *clock.Clock // open
	Leases      *lease.Lessor
	Cache       *statecache.Cache
	Doubts      *mergedlog.Doubts

	MaxTxnOps        int           // the members' --max-txn-ops
	Timeout          time.Duration // of a raise during the opening, which is then repeated
	LogBytes         int64         // see mergedlog.Config.MaxBytes
	ProgressInterval time.Duration // see watchhub.Options
	Logger           *zap.Logger

	// Holds reports whether this process itself holds a stamp: it is about to land, or to be given up.
	Holds func(stamp int64) bool
	// OnFence is told of each fence that was raised for a missing stamp.
	OnFence func()
	// Settle finishes what transactions across members have decided up to now, before the log is started there.
	Settle func(ctx context.Context, f *Feed, now int64) error
	// Resolver makes the resolver of a feed.
	Resolver func(f *Feed) Resolver
}
