// Package clock takes stamps from the coordinator: a blind, dense fetch-and-add that survives the loss of all of the
// coordinator's data.
//
// etcd has no add, but a put raises its key's version by one. So the keys w_00 … w_11 are binary digits of weight 2^i,
// and adding k is one transaction that puts the digits of k's set bits and reads them all: the clock is
// base + Σ 2^i·(version(w_i) − 1). It never conflicts, and one round trip hands out any number of stamps up to
// [MaxTake], so all callers of a process that wait share one add.
//
// Invariants:
//
//   - Within an epoch every stamp is handed out at most once, to one caller, in dense ranges.
//   - A caller joins only adds and reads that are sent after it arrived: what ended before a call began has a smaller
//     stamp, or an older epoch.
//   - Every transaction compares the epoch record, whose nonce no other life of the coordinator shares: a clock that
//     was lost, wiped or rebuilt is noticed before it is used.
//   - The first stamp of an epoch is above every stamp that landed, and every fence that was raised, before the epoch;
//     stamps of older epochs cannot land any more. See rebuild.
package clock

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/hedge"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Member is a cluster whose records tell where a lost clock has to go on.
type Member struct {
	Name string
	KV   pb.KVClient
}

// Hooks are called as things happen, from the clock's own goroutines: they must be fast and must not call the clock.
// Every hook may be nil.
type Hooks struct {
	Added   func(stamps int64, took time.Duration) // an add was answered
	Read    func(took time.Duration)               // a read was answered
	Rebuilt func(epoch, base int64)                // this process created a new clock
}

// Config configures a Clock. Its clients send writes once, see internal/wire; an add that was repeated would only leave a gap.
type Config struct {
	Coordinator pb.KVClient
	Members     []Member

	// Highest returns the highest stamp seen in any member's log, or 0. It is called before every transaction; when
	// the answer is not above it, the coordinator went backwards.
	Highest func() int64

	// Alone says that the coordinator is a single server: where an add is late, no other could answer it sooner.
	Alone bool

	// Unused is told of stamps first, …, first+k−1 that were taken and that nobody waits for any more: it may have them marked, so that
	// they are no gap. May be nil.
	Unused func(first, k, epoch int64)

	// Restore puts on a coordinator that has lost everything what is kept there besides the clock. It is called before a
	// new clock is created, when all members are in the new epoch: what they hold of older ones is final. What it puts must be
	// guarded by life, which holds until somebody has created the clock or the coordinator loses its data again; otherwise it
	// must fail. Several processes may be at it at once, and it may be called for a coordinator that has lost nothing. May be nil.
	Restore func(ctx context.Context, life []*pb.Compare) error

	ClusterID     uint64 // the meta cluster's id
	CoordinatorID uint64 // the coordinator's etcd cluster id

	Logger *zap.Logger // nil: none
	Hooks  Hooks

	// CompactEvery is the number of coordinator revisions after which the coordinator is compacted. 0: 10,000.
	CompactEvery int64
}

const (
	defaultCompactEvery = 10_000

	// rpcTimeout bounds one request: longer than etcd itself waits for a request to be applied.
	rpcTimeout = 10 * time.Second
)

// Clock is one process's view of the coordinator. It is safe for concurrent use. Adds go out one at a time, and so do
// reads, beside them: what arrives meanwhile shares the next one. An add that is late is sent again beside itself.
type Clock struct {
	cfg Config
	log *zap.Logger

	life *lifetime.Life // ends with Close

	epoch    atomic.Pointer[epochState] // nil before Open
	recovery chan struct{}              // holds a token while somebody settles the epoch

	wakeAdd, wakeRead chan struct{}

	pace   hedge.Pace   // of adds
	strays hedge.Strays // adds that nobody waits for any more

	mu        sync.Mutex
	adds      []*batch // wait for an add, oldest first
	reads     []*batch // wait for an add or a read, oldest first
	changed   chan struct{}
	lastErr   error // of the coordinator; nil once it answers
	compacted int64 // coordinator revision of the last compaction, or of the first answer
}

// New returns a clock that must be opened before use and closed after it.
func New(cfg Config) *Clock {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.CompactEvery <= 0 {
		cfg.CompactEvery = defaultCompactEvery
	}
	if cfg.Highest == nil {
		cfg.Highest = func() int64 { return 0 }
	}
	c := &Clock{
		cfg: cfg, log: cfg.Logger, life: lifetime.New(context.Background()),
		recovery: make(chan struct{}, 1),
		wakeAdd:  make(chan struct{}, 1), wakeRead: make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	c.life.Spawn(func() { c.serve(c.wakeAdd, c.nextAdd) })
	c.life.Spawn(func() { c.serve(c.wakeRead, c.nextRead) })
	return c
}

// Close ends all waiting calls with ErrClosed and returns when the clock's goroutines have ended. It is idempotent.
func (c *Clock) Close() {
	c.life.End(ErrClosed)
	c.life.Wait()
}

// Take hands out the stamps first, …, first+k−1 of an epoch, taken after the call began; k is in [1, MaxTake].
//
// It retries until ctx ends or the coordinator turns out to be the wrong one. Stamps that were on their way to a caller
// whose ctx ended go to Config.Unused.
func (c *Clock) Take(ctx context.Context, k int64) (first, epoch int64, err error) {
	if k < 1 || k > MaxTake {
		return 0, 0, fmt.Errorf("metaetcd: %d stamps at once, want 1 to %d", k, MaxTake)
	}
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	b, offset := c.join(&c.adds, k)
	lifetime.Wake(c.wakeAdd)
	if err := c.await(ctx, b, span{offset, k}); err != nil {
		return 0, 0, err
	}
	return b.first(offset), b.epoch, nil
}

// Read returns the clock, that is the highest stamp handed out, read after the call began, and its epoch. It retries
// as Take does.
func (c *Clock) Read(ctx context.Context) (now, epoch int64, err error) {
	return c.StartRead().Wait(ctx)
}

// Reading is a Read under way.
type Reading struct {
	c *Clock
	b *batch
}

// StartRead begins a Read, for a caller that has something else to do meanwhile.
func (c *Clock) StartRead() Reading {
	b, _ := c.join(&c.reads, 0)
	lifetime.Wake(c.wakeRead)
	return Reading{c, b}
}

// Wait returns what was read. It must be called at most once.
func (r Reading) Wait(ctx context.Context) (now, epoch int64, err error) {
	if err := r.c.await(ctx, r.b, span{}); err != nil {
		return 0, 0, err
	}
	return r.b.clock, r.b.epoch, nil
}

// await waits for a batch that the caller has joined for some stamps.
func (c *Clock) await(ctx context.Context, b *batch, wanted span) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return c.leave(ctx, b, wanted)
	case <-c.life.Context().Done():
		return ErrClosed
	}
}

// exchange sends one transaction to the coordinator and makes sure that it is the right one that answered.
func (c *Clock) exchange(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	resp, err := c.cfg.Coordinator.Txn(ctx, req)
	if err != nil {
		return nil, wire.Name("", err)
	}
	if got := resp.Header.ClusterId; got != c.cfg.CoordinatorID {
		return nil, &WrongCoordinatorError{Want: c.cfg.CoordinatorID, Got: got}
	}
	c.compactBehind(resp.Header.Revision) //nolint:contextcheck // it lives as long as the clock, not as the call
	return resp, nil
}
