package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// core is one process of the meta cluster: what the services in kv.go, watch.go and lease.go stand on. Safe for concurrent use.
type core struct {
	cfg     Config
	id      topology.Info
	self    uint64 // member id in headers: constant for this client, unlike any other's
	ring    *ring.Ring
	members []*member
	clock   *clock.Clock
	leases  *lease.Lessor
	commit  *commit.Pipeline
	doubts  *mergedlog.Doubts
	cache   *statecache.Cache
	metrics *metrics
	latches *latch.Set
	sweeper *sweeper

	crossings sync.Map // record.TxnID of the transactions across members that this process is at work on

	compacted    atomic.Int64
	told         atomic.Int64 // see tell
	closedBefore atomic.Int64 // the closed revision of earlier feeds
	guesses      guesses
	log          atomic.Pointer[mergedlog.Log] // of the newest feed, also while it is being opened

	ctx    context.Context // ends with Close or a fatal error
	cancel context.CancelFunc
	late   context.Context // ends when Close does not wait any longer for what is under way
	wg     sync.WaitGroup

	closing sync.Once

	mu    sync.Mutex
	feed  *feed         // nil while a new one is being opened
	ready chan struct{} // closed when feed is set or the core is over
	fatal error         // why the core is over
}

// openCore checks or creates the topology, and returns when the process can serve. Whatever it started is gone on error.
func openCore(ctx context.Context, cfg Config) (_ *core, err error) {
	c := &core{cfg: cfg, self: rand.Uint64() | 1, ready: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.late = endsAfter(c.ctx, linger)
	if c.metrics, err = newMetrics(cfg.Metrics, c); err != nil {
		c.cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	coordinator := wire.KV(cfg.Coordinator)
	if err := c.openTopology(ctx, coordinator); err != nil {
		return nil, err
	}
	c.cache = statecache.New(cfg.CacheEntries)
	c.latches = latch.New(len(c.members))
	c.sweeper = newSweeper(c)
	c.clock = clock.New(c.clockConfig(coordinator))
	c.leases = lease.New(c.leaseConfig())
	if err := c.clock.Open(ctx); err != nil {
		return nil, err
	}
	c.commit = commit.New(c.commitConfig())
	context.AfterFunc(endsAfter(c.ctx, 2*linger), c.commit.Abandon) //nolint:contextcheck // it is the core's, not the call's
	f, err := c.openFirst(ctx)
	if err != nil {
		return nil, err
	}
	c.setFeed(f)
	c.leases.Run()
	c.wg.Add(1)
	go c.supervise(f)
	return c, nil
}

func (c *core) openTopology(ctx context.Context, coordinator pb.KVClient) error {
	var ms []topology.Member
	byName := map[string]Member{}
	for _, m := range c.cfg.Members {
		ms = append(ms, topology.Member{Name: m.Name, KV: wire.KV(m.Client), Version: wire.Version(m.Client)})
		byName[m.Name] = m
	}
	policy := ring.Policy{Segments: c.cfg.Sharding.Segments, Separator: c.cfg.Sharding.Separator}
	spec := topology.Spec{Slots: c.cfg.Sharding.Slots, Policy: policy, MaxTxnOps: c.cfg.MemberTxnOps, CoordinatorVersion: wire.Version(c.cfg.Coordinator)}
	var err error
	if c.id, err = topology.Open(ctx, coordinator, ms, spec); err != nil {
		return err
	}
	if c.ring, err = ring.New(c.id.Names, c.id.Slots, policy); err != nil {
		return err
	}
	c.doubts = mergedlog.NewDoubts(len(c.ring.Names()), c.ring.Slot)
	for i, name := range c.ring.Names() {
		cli := byName[name].Client
		m := &member{index: i, name: name, cli: cli, kv: wire.KV(cli), open: c.ctx, seen: c.metrics.memberRequest, stopped: c.stopped, reached: c.doubts.Reached, log: c.cfg.Logger}
		m.points = &pointReader{m: m, ctx: c.ctx, spawn: c.spawn, timeout: c.cfg.MemberTimeout, most: min(sharedReads, c.cfg.MemberTxnOps)}
		c.members = append(c.members, m)
	}
	return nil
}

func (c *core) commitConfig() commit.Config {
	cfg := commit.Config{
		Clock: c.clock, Doubts: c.doubts, MaxTxnOps: c.cfg.MemberTxnOps, Timeout: c.cfg.MemberTimeout, Logger: c.cfg.Logger,
		Grace:     c.grace,
		OnBatch:   c.metrics.batch,
		OnRefusal: c.metrics.refusal,
	}
	for _, m := range c.members {
		cfg.Members = append(cfg.Members, commit.Member{Name: m.name, Txn: m.send, Present: m.present, Raise: func(ctx context.Context, epoch, stamp int64) error {
			r, err := m.raise(ctx, epoch, stamp)
			if err == nil {
				currentLog{c}.fenceHolds(m.index, r)
			}
			return err
		}})
	}
	return cfg
}

// grace is how long a missing stamp is waited for at present.
func (c *core) grace() time.Duration {
	if f := c.present(); f != nil {
		return f.gaps.Grace()
	}
	return minGrace
}

// supervise opens a new feed when compaction overtook the last one; any other end is fatal.
func (c *core) supervise(f *feed) {
	defer c.wg.Done()
	for {
		select {
		case <-f.ended:
		case <-c.ctx.Done():
			return
		}
		if !errors.Is(f.err, mergedlog.ErrOverrun) {
			c.fail(f.err)
			return
		}
		c.setFeed(nil)
		f.close()
		next, err := c.reopen()
		if err != nil {
			return
		}
		f = next
		c.setFeed(f)
	}
}

// reopenAfter is how long the opening of a feed rests after it failed.
const reopenAfter = time.Second

// reopen opens a feed, again until it works or the core is over.
func (c *core) reopen() (*feed, error) {
	for first := true; ; first = false {
		f, err := openFeed(c.ctx, c)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, errFatal):
			c.fail(err)
			return nil, err
		}
		if first {
			c.cfg.Logger.Warn("could not reopen the merged log; trying again", zap.Error(err))
		}
		if overrun := errors.Is(err, mergedlog.ErrOverrun); overrun && c.ctx.Err() == nil {
			continue
		}
		if err := pause(c.ctx, reopenAfter); err != nil {
			return nil, err
		}
	}
}

// openFirst opens the first feed, again where compaction overtakes it.
func (c *core) openFirst(ctx context.Context) (*feed, error) {
	for {
		f, err := openFeed(ctx, c)
		if err == nil || !errors.Is(err, mergedlog.ErrOverrun) || ctx.Err() != nil {
			return f, err
		}
		c.cfg.Logger.Info("compaction overtook the opening of the merged log; it is opened again", zap.Error(err))
	}
}

func (c *core) setFeed(f *feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f != nil && c.fatal == nil:
		c.feed = f
		close(c.ready)
	case f == nil && c.feed != nil:
		close(c.feed.replaced)
		c.feed = nil
		c.ready = make(chan struct{})
	}
}

// fail ends the core: the state of the meta cluster contradicts the protocol, and serving on could do harm.
func (c *core) fail(err error) {
	c.cfg.Logger.Error("client stops", zap.Error(err))
	c.mu.Lock()
	c.fatal = fmt.Errorf("metaetcd: client stopped: %w", err)
	c.mu.Unlock()
	c.cancel()
	c.commit.Stop(final{c.whyOver()})
	c.leases.Shut()
}

// stopped returns why nothing may be sent to members any more: the core has failed. One that is closed finishes what it began.
func (c *core) stopped() error {
	if c.ctx.Err() == nil {
		return nil
	}
	if err := c.whyOver(); !errors.Is(err, ErrClosed) {
		return final{err}
	}
	return nil
}

// present returns the feed, nil while there is none.
func (c *core) present() *feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.feed
}

// feedFor returns the feed to serve a request from; it waits while a new one is being opened.
func (c *core) feedFor(ctx context.Context) (*feed, error) {
	for {
		c.mu.Lock()
		f, ready := c.feed, c.ready
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return nil, c.whyOver()
		}
		if f != nil {
			if !f.over() {
				return f, nil
			}
			ready = f.replaced
		}
		select {
		case <-ready:
		case <-c.ctx.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// whyOver is what requests get when the core is over.
func (c *core) whyOver() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fatal != nil {
		return c.fatal
	}
	return ErrClosed
}

// orOver returns the error that ended a request, or why the core is over if that is what ended it.
func (c *core) orOver(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || c.ctx.Err() == nil || errors.Is(err, ErrUnknownOutcome) {
		return err
	}
	switch status.Code(err) {
	case codes.Canceled, codes.Unavailable, codes.Unknown, codes.DeadlineExceeded:
		return c.whyOver()
	}
	if errors.Is(err, context.Canceled) {
		return c.whyOver()
	}
	return err
}

// noteCompacted raises the revision below which reads are refused.
func (c *core) noteCompacted(rev int64) { raise(&c.compacted, rev) }

// raise sets n to rev unless it is higher.
func raise(n *atomic.Int64, rev int64) {
	for {
		old := n.Load()
		if rev <= old || n.CompareAndSwap(old, rev) {
			return
		}
	}
}

// catchUp learns of a compaction by another process, and waits until this one has closed what it kept.
func (c *core) catchUp(ctx context.Context, f *feed) error {
	r, err := c.members[0].readRecords(ctx)
	if err != nil {
		return err
	}
	c.noteCompacted(r.compacted)
	f.gaps.Kick()
	return f.log.WaitClosed(ctx, r.compacted)
}

// header is the part of a response header that does not depend on the request.
func (c *core) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: c.id.ClusterID, MemberId: c.self, RaftTerm: uint64(c.clock.Epoch())}
}

// owner returns the index of the member that stores a key.
func (c *core) owner(key []byte) int { return c.ring.MemberOf(key) }

// whileOpen ends a context with the core.
func (c *core) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	return whileOpen(ctx, c.ctx)
}

func whileOpen(ctx, open context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(open, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// lingering is a context for what should be finished though the core is being closed, if it does not take long.
func (c *core) lingering(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.late, timeout)
}

// linger is how long Close waits for requests that are under way. For outcomes it waits twice as long.
const linger = 500 * time.Millisecond

// endsAfter returns a context that ends some time after ctx.
func endsAfter(ctx context.Context, d time.Duration) context.Context {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return late
}

// spawn runs fn beside its caller, unless the core is being closed.
func (c *core) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.wg.Go(fn)
	return true
}

// close ends the core and returns when nothing of it is left.
func (c *core) close() { c.closing.Do(c.shutDown) }

func (c *core) shutDown() {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	if c.commit != nil {
		c.commit.Shut() // who settles an outcome needs the rest of it, and waits in wg
	}
	if c.leases != nil {
		c.leases.Close()
	}
	c.wg.Wait()
	if c.commit != nil {
		c.commit.Close()
	}
	c.mu.Lock()
	f := c.feed
	c.mu.Unlock()
	if f != nil {
		f.close()
	}
	if c.clock != nil {
		c.clock.Close()
	}
	c.metrics.unregister()
}

// currentLog is the newest feed's log, for those that outlive feeds. It is there before the feed serves.
type currentLog struct{ c *core }

func (l currentLog) fenceHolds(member int, r raised) {
	if log := l.c.log.Load(); log != nil {
		log.FenceHolds(member, r.epoch, r.fence, r.rev)
	}
}

// highest is the highest stamp that any member has shown to this process.
func (l currentLog) highest() int64 {
	if log := l.c.log.Load(); log != nil {
		return log.Highest()
	}
	return 0
}

func (c *core) clockConfig(coordinator pb.KVClient) clock.Config {
	cfg := clock.Config{
		Coordinator: coordinator, ClusterID: c.id.ClusterID, CoordinatorID: c.id.CoordinatorID,
		Highest: currentLog{c}.highest, Logger: c.cfg.Logger,
		Alone:   len(c.cfg.Coordinator.Endpoints()) < 2,
		Unused:  func(first, k, epoch int64) { c.commit.SurrenderAll(first, k, epoch) },
		Restore: func(ctx context.Context, life []*pb.Compare) error { return c.leases.Restore(ctx, life) },
	}
	for _, m := range c.members {
		cfg.Members = append(cfg.Members, clock.Member{Name: m.name, KV: m.kv})
	}
	cfg.Hooks = c.metrics.clockHooks()
	return cfg
}

// isReserved reports whether a key is one of metaetcd's own names.
func isReserved(key []byte) bool { return len(key) > 0 && key[0] == record.Reserved }
