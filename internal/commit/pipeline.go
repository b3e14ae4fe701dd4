package commit

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Clock hands out stamps; see internal/clock.
type Clock interface {
	// Take may be left by its caller: then the clock sees to it that nobody has to wait for the stamps.
	Take(ctx context.Context, k int64) (first, epoch int64, err error)
	Sync(ctx context.Context) (epoch int64, err error)
	Epoch() int64
}

// Doubts settle unknown outcomes; see internal/mergedlog.
type Doubts interface {
	Track(member int, epoch int64, sent ...mergedlog.Sent)
	Untrack(member int, epoch int64, stamps ...int64)
	Outcome(ctx context.Context, member int, epoch, stamp int64) (mergedlog.Outcome, error)
	Seen(ctx context.Context, member int, epoch, stamp, rev int64) (mergedlog.Outcome, error)
}

// Member is where a lane's flights go.
type Member struct {
	Name string
	// Txn sends one member transaction.
	Txn func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
	// States reads what the member holds of some keys, at one native revision. It may be outdated. There are at most MaxTxnOps keys.
	States func(ctx context.Context, keys [][]byte) (rev int64, states []translate.State, err error)
	// Present is the member's present revision, linearizably.
	Present func(ctx context.Context) (rev int64, err error)
	// Raise raises the member's fence to stamp in epoch, so that the log can tell a dead stamp.
	Raise func(ctx context.Context, epoch, stamp int64) error
}

// Config is what a pipeline works with. The hooks may be nil.
type Config struct {
	Clock     Clock
	Doubts    Doubts
	Members   []Member
	MaxTxnOps int           // the members' max-txn-ops; 0: etcd's 128
	MaxBytes  int           // bytes of a batch, about; 0: 1 MiB
	Timeout   time.Duration // of a member transaction, after which it is settled on the log; 0: 10 s
	Grace     func() time.Duration
	Logger    *zap.Logger

	Closed    func() int64 // the highest revision that is known to be closed; nil: none is
	OnBatch   func(member, ops int)
	OnRefusal func(member int, fenced bool)
}

// Pipeline is the group commit of one process. Safe for concurrent use.
type Pipeline struct {
	cfg     Config
	closing chan struct{} // closed by Close
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	lanes   []*lane
	once    sync.Once
	reason  error // why it is closed; set before closing is closed

	mu   sync.Mutex
	held map[int64]int64 // stamps taken whose fate is not known yet, and their epochs
	lost []Stamp         // surrendered stamps that no lane could take
}

// New starts the lanes.
func New(cfg Config) *Pipeline {
	if cfg.MaxTxnOps == 0 {
		cfg.MaxTxnOps = 128
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 20
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Closed == nil {
		cfg.Closed = func() int64 { return 0 }
	}
	p := &Pipeline{cfg: cfg, closing: make(chan struct{}), held: map[int64]int64{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for i, m := range cfg.Members {
		p.lanes = append(p.lanes, newLane(p, i, m))
	}
	for _, l := range p.lanes {
		p.wg.Add(2)
		go l.stampLoop()
		go l.sendLoop()
	}
	return p
}

// Shut ends the lanes, without waiting: operations that wait get ErrClosed, and their stamps are marked. It is idempotent.
func (p *Pipeline) Shut() { p.end(ErrClosed) }

// Stop is Shut where nothing may be sent any more: what waits gets reason, and stamps are left for others to fence off, as after
// a crash. What is in flight may still land, and is told so.
func (p *Pipeline) Stop(reason error) { p.end(reason) }

func (p *Pipeline) end(reason error) {
	p.once.Do(func() {
		p.reason = reason
		close(p.closing)
		for _, l := range p.lanes {
			l.close()
		}
	})
}

// Abandon ends the waiting for outcomes: those that are missing are ErrUnknown. It comes after Shut or Stop.
func (p *Pipeline) Abandon() { p.cancel() }

// Close is Shut, and returns when nothing is left of the pipeline. What is in flight is awaited, but not for long: the outcomes
// that are missing then are ErrUnknown, and what has no mark is for others to fence off, as after a crash. It is idempotent.
func (p *Pipeline) Close() {
	p.Shut()
	timer := time.AfterFunc(stallAfter, p.cancel)
	p.wg.Wait()
	timer.Stop()
	p.cancel()
}

// ended returns why the pipeline is closed; nil: it is not.
func (p *Pipeline) ended() error {
	select {
	case <-p.closing:
		return p.reason
	default:
		return nil
	}
}

// stopped reports whether nothing may be sent any more.
func (p *Pipeline) stopped() bool {
	err := p.ended()
	return err != nil && !errors.Is(err, ErrClosed)
}

// Do lands op on a member: it returns when the operation landed, was refused or failed, or when ctx ends. In the last
// case the error is ctx's, and an operation that was already in flight may still land. op's functions may run on the caller's goroutine.
func (p *Pipeline) Do(ctx context.Context, member int, op *Op) (Result, error) {
	op.ctx, op.result = ctx, make(chan Result, 1)
	if len(op.Missing) > 0 {
		op.known = make(chan struct{})
	}
	l := p.lanes[member]
	if l.claim(op) {
		l.flyLone(op) //nolint:contextcheck // what is left of the flight outlives its caller
	} else if err := l.enqueue(op); err != nil {
		return Result{}, err
	}
	select {
	case r := <-op.result:
		return r, r.Err
	case <-ctx.Done():
		l.wake() // it gives up the stamp
	}
	select {
	case r := <-op.result: // known all the same
		return r, r.Err
	default:
		return Result{}, ctx.Err()
	}
}

var _ Doubts = (*mergedlog.Doubts)(nil)
