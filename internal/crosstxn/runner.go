package crosstxn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Runner runs the transactions across members of one process, and finishes those of others. Safe for concurrent use.
type Runner struct {
	cfg     Config
	latches *latch.Set
	cleaner *decisionCleaner
	apart   atomic.Bool // answers to locks did not fit into messages: what is read under them is asked for by itself
	open    sync.Map    // record.TxnID of the transactions that this process is at work on
}

// Config is what a Runner works with. All of it is needed.
type Config struct {
	Life    *lifetime.Life   // of the process: nothing is started after its end
	Feeds   *feed.Current    // shows when locks are free
	Reads   Reads            // answers what the locks do not cover
	Members []*member.Member // in the order of their indexes
	Ring    *ring.Ring
	Clock   Clock
	Commit  Stamps
	Doubts  *mergedlog.Doubts // are told of decisions under way, so that Commit can settle them
	Cache   *statecache.Cache // what this process knows of single keys; only for guesses

	MaxTxnOps int           // the members' --max-txn-ops
	Timeout   time.Duration // of one request to a member
	Logger    *zap.Logger

	// OnRangeDelete is told the stamp of a decided transaction that deletes ranges.
	OnRangeDelete func(stamp int64)
	// The rest are counters: a transaction was decided here; it met somebody's locks; a decision of another writer is being
	// applied; locks were taken from another writer, on one member.
	OnDecided, OnLockWait, OnRollForward, OnAbort func()
}

// Clock is the epoch that locks and decisions are guarded with; see internal/clock.
type Clock interface {
	Epoch() int64
	Sync(ctx context.Context) (epoch int64, err error)
}

// Stamps hands out the stamps of decisions and of locks that are taken, and settles decisions whose answer was lost; see
// internal/commit. Every stamp that Take returns goes to Landed or to Surrender, once.
type Stamps interface {
	Take(ctx context.Context) (commit.Stamp, error)
	Landed(s commit.Stamp)
	Surrender(s commit.Stamp)
	Settle(member int, s commit.Stamp, err error) (mergedlog.Outcome, error)
}

// Reads are the reads that a transaction needs beside those under its locks; see internal/read.
type Reads interface {
	ShowHeads(ctx context.Context, m *member.Member, kvs []*mvccpb.KeyValue, rev int64) error
	CheckReads(ctx context.Context, f *feed.Feed, run *translate.Run) error
	AnswerUnstamped(ctx context.Context, plan *translate.Plan, serializable bool) (resp *pb.TxnResponse, writes bool, err error)
	Replay(ctx context.Context, run *translate.Run, stamp int64) ([]translate.Result, error)
	Landed(plan *translate.Plan, run *translate.Run, stamp int64, results []translate.Result) *pb.TxnResponse
}

// New makes a Runner. It starts nothing by itself.
func New(cfg Config) *Runner {
	r := &Runner{cfg: cfg, latches: latch.New(len(cfg.Members))}
	r.cleaner = newDecisionCleaner(r)
	return r
}

// atWork reports whether a transaction is one that this process is at work on.
func (r *Runner) atWork(id record.TxnID) bool {
	_, own := r.open.Load(id)
	return own
}
