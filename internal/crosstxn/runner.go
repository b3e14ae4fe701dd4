package crosstxn

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/read"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// Runner runs the transactions across members of one process. Safe for concurrent use.
type Runner struct {
	Config
	latches *latch.Set
	cleaner *decisionCleaner
	open    sync.Map // record.TxnID of the transactions that this process is at work on
}

type Config struct {
	Life    *lifetime.Life
	Feeds   *feed.Current
	Reads   *read.Reader
	Members []*member.Member
	Ring    *ring.Ring
	Clock   *clock.Clock
	Commit  *commit.Pipeline
	Doubts  *mergedlog.Doubts
	Cache   *statecache.Cache

	MaxTxnOps int
	Timeout   time.Duration
	Logger    *zap.Logger

	// onRangeDelete is told the stamp of a transaction that deleted ranges.
	OnRangeDelete func(stamp int64)
	// Counters.
	OnDecided, OnLockWait, OnRollForward, OnAbort func()
}

func New(cfg Config) *Runner {
	r := &Runner{Config: cfg, latches: latch.New(len(cfg.Members))}
	r.cleaner = newDecisionCleaner(r)
	return r
}
