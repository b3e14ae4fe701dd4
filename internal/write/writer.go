package write

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Config is what writes need. It does not change.
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

	MaxTxnOps    int           // the members' --max-txn-ops
	Timeout      time.Duration // of a read of keys' states
	Logger       *zap.Logger
	OnReapedKeys func(n int64) // how many keys of ended leases were deleted; concurrent
}

// Writer brings the transactions of one process to their members. Safe for concurrent use.
type Writer struct {
	cfg    Config
	rivals rivals
}

// New returns a writer. It starts nothing.
func New(cfg Config) *Writer { return &Writer{cfg: cfg, rivals: rivals{slots: map[int]int{}}} }

// maxLosses is how often a transaction of one member may meet others before it takes locks.
const maxLosses = 3

// Do runs a validated transaction; a put or a delete is one of a single operation. What changes nothing is answered
// from a snapshot and takes no stamp, because etcd's revision would not move either. Errors are etcd's; commit.ErrUnknown says that
// the transaction may have landed.
func (w *Writer) Do(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	plan := translate.NewPlan(req, w.cfg.Ring)
	if !plan.Writes || len(plan.Members) == 0 {
		return w.cfg.Reads.ReadTxn(ctx, plan)
	}
	if len(plan.Members) > 1 {
		return w.cfg.Cross.Run(ctx, plan)
	}
	t := &transaction{writer: w, plan: plan, member: w.cfg.Members[plan.Members[0]]}
	for t.losses < maxLosses {
		free, err := w.cfg.Feeds.AwaitUnlocked(ctx, w.cfg.Ring, t.member.Index, plan.Exclusive(), plan.Keys...)
		if err != nil {
			return nil, err
		}
		if !free && plan.Exclusive() {
			break // there may never be a moment without locks, unless it claims the member
		}
		resp, done, err := t.attempt(ctx)
		if errors.Is(err, rpctypes.ErrGRPCTooManyOps) || errors.Is(err, translate.ErrRounds) || commit.TooLarge(err) && plan.LongKeys() {
			break
		}
		if done || err != nil {
			return resp, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return w.cfg.Cross.Run(ctx, plan)
}
