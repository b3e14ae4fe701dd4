package write

import (
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/crosstxn"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/read"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// Config is what writes need.
type Config struct {
	Life    *lifetime.Life
	Feeds   *feed.Current
	Reads   *read.Reader
	Cross   *crosstxn.Runner
	Members []*member.Member
	Ring    *ring.Ring
	Commit  *commit.Pipeline
	Cache   *statecache.Cache
	Leases  *lease.Lessor

	MaxTxnOps    int // the members' --max-txn-ops
	Timeout      time.Duration
	Logger       *zap.Logger
	OnReapedKeys func(n int64)
}

// Writer brings the transactions of one process to their members. Safe for concurrent use.
type Writer struct{ Config }

func New(cfg Config) *Writer { return &Writer{cfg} }
