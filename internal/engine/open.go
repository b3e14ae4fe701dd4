package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/crosstxn"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/metrics"
	"github.com/metaetcd/metaetcd/internal/read"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
	"github.com/metaetcd/metaetcd/internal/write"
)

// Engine is one process of a meta cluster: the rooms below it, wired, opened and closed. It is safe for concurrent use. What its fields
// hold does not change once Open has returned.
type Engine struct {
	cfg     Config
	id      topology.Info
	ring    *ring.Ring
	clients map[string]*clientv3.Client // by the member's name
	doubts  *mergedlog.Doubts
	commit  *commit.Pipeline
	cache   *statecache.Cache
	cross   *crosstxn.Runner
	feedCfg feed.Config

	Life    *lifetime.Life   // of the process
	Members []*member.Member // in the order of their names
	Metrics *metrics.Set
	Clock   *clock.Clock
	Leases  *lease.Lessor
	Feeds   *feed.Current
	Reads   *read.Reader
	Writes  *write.Writer

	maxTxnOps int
	timeout   time.Duration
	logger    *zap.Logger

	closing sync.Once
}

// Config is the configuration of a process, checked, with its defaults filled in. The clients are borrowed.
type Config struct {
	Coordinator *clientv3.Client
	Members     []Member
	Slots       int // of the whole meta cluster
	Policy      ring.Policy

	MaxTxnOps        int           // the members' --max-txn-ops
	Timeout          time.Duration // of one request to a member
	CacheEntries     int           // keys whose state is remembered
	LogBytes         int64         // of recent events in memory, about
	ProgressInterval time.Duration // between the progress notifications of a watch
	Logger           *zap.Logger
	Metrics          *metrics.Set // registered; the engine unregisters it when it ends, also when it cannot be opened

	// LeaseEnds opens the watcher of the coordinator's sentinels; see lease.Config.Watch. nil: clientv3's, of the coordinator's client.
	LeaseEnds func() clientv3.Watcher
}

// Member is a member's name and client.
type Member struct {
	Name   string
	Client *clientv3.Client
}

// Open opens a process, and creates the meta cluster if it is new. It returns when the process can serve, or with an error, and
// then nothing is left of what it had started. The order is that of what depends on what:
//
//  1. the topology, which names the members, and is checked before anything is written;
//  2. the clock, because every room works in its epoch; it may have to be rebuilt, with the leases;
//  3. the lanes of writes, the reads and the transactions across members: opening a feed settles what earlier processes have left;
//  4. the first feed: it has closed everything up to the clock's present revision;
//  5. the reaping of leases, which reads and writes as users do, and the watch over the feed.
func Open(ctx context.Context, cfg Config) (_ *Engine, err error) {
	c := &Engine{
		cfg: cfg, Life: lifetime.New(context.Background()), Metrics: cfg.Metrics, //nolint:contextcheck // the process outlives the call
		maxTxnOps: cfg.MaxTxnOps, timeout: cfg.Timeout, logger: cfg.Logger,
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err := c.openTopology(ctx); err != nil {
		return nil, err
	}
	c.wire() //nolint:contextcheck // what is wired is the process's
	if err := c.Clock.Open(ctx); err != nil {
		return nil, err
	}
	c.start() //nolint:contextcheck // what is started is the process's
	f, err := c.openFirst(ctx)
	if err != nil {
		return nil, err
	}
	c.Feeds.Set(f)
	c.Leases.Run()
	c.Life.Spawn(func() { c.supervise(f) }) //nolint:contextcheck // the process outlives the call
	return c, nil
}

// wire makes the rooms that the clock begins with. They refer to later ones, but use them only when those are there.
func (c *Engine) wire() {
	c.Feeds = feed.NewCurrent(c.Life, feed.Identity{
		ClusterID: c.id.ClusterID, MemberID: rand.Uint64() | 1, Epoch: func() int64 { return c.Clock.Epoch() },
	})
	c.cache = statecache.New(c.cfg.CacheEntries)
	c.Clock = clock.New(c.clockConfig(wire.KV(c.cfg.Coordinator)))
	c.Leases = lease.New(c.leaseConfig())
}

// start makes the rooms that serve. Only the lanes of commit run by themselves.
func (c *Engine) start() {
	c.commit = commit.New(c.commitConfig())
	// Nobody waits for outcomes for ever when the process is over.
	context.AfterFunc(c.Life.Context(), func() { time.AfterFunc(2*member.Linger, c.commit.Abandon) })
	c.Reads = read.New(read.Config{
		Life: c.Life, Feeds: c.Feeds, Members: c.Members, Ring: c.ring, Clock: c.Clock, Commit: c.commit, Leases: c.Leases, Cache: c.cache,
		CacheEntries: c.cfg.CacheEntries, MaxTxnOps: c.maxTxnOps, OnFencedRead: c.Metrics.FencedReads.Inc,
	})
	c.cross = crosstxn.New(crosstxn.Config{
		Life: c.Life, Feeds: c.Feeds, Reads: c.Reads, Members: c.Members, Ring: c.ring, Clock: c.Clock, Commit: c.commit, Doubts: c.doubts, Cache: c.cache,
		MaxTxnOps: c.maxTxnOps, Timeout: c.timeout, Logger: c.logger,
		OnRangeDelete: func(stamp int64) { c.Writes.DropEntriesBehind(stamp) },
		OnDecided:     c.Metrics.Crossings.Inc, OnLockWait: c.Metrics.LockWaits.Inc,
		OnRollForward: c.Metrics.RollForwards.Inc, OnAbort: c.Metrics.Aborts.Inc,
	})
	c.Writes = write.New(write.Config{
		Life: c.Life, Feeds: c.Feeds, Reads: c.Reads, Cross: c.cross, Members: c.Members, Ring: c.ring, Commit: c.commit, Cache: c.cache, Leases: c.Leases,
		MaxTxnOps: c.maxTxnOps, Timeout: c.timeout, Logger: c.logger,
		OnReapedKeys: func(n int64) { c.Metrics.ReapedKeys.Add(float64(n)) },
	})
	c.feedCfg = feed.Config{
		Life: c.Life, Feeds: c.Feeds, Members: c.Members, Ring: c.ring, Clock: c.Clock, Leases: c.Leases, Cache: c.cache, Doubts: c.doubts,
		MaxTxnOps: c.maxTxnOps, Timeout: c.timeout, LogBytes: c.cfg.LogBytes, ProgressInterval: c.cfg.ProgressInterval, Logger: c.logger,
		Holds: c.commit.Holds, OnFence: c.Metrics.Fences.Inc, Settle: c.cross.FinishDecided, Resolver: c.cross.NewResolver,
	}
}

// Watch serves one stream of the Watch service, by the feed that is there when it begins; while there is none it waits. It returns when
// the stream ends, or the feed does.
func (c *Engine) Watch(stream pb.Watch_WatchServer) error {
	f, err := c.Feeds.Wait(stream.Context())
	if err != nil {
		return err
	}
	return f.Watch(stream)
}

// Over returns the error that ended a request, or why the process is over if that is what ended it.
func (c *Engine) Over(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !c.Life.Over() || errors.Is(err, commit.ErrUnknown) {
		return err
	}
	switch status.Code(err) {
	case codes.Canceled, codes.Unavailable, codes.Unknown, codes.DeadlineExceeded:
		return c.Life.Cause()
	}
	if errors.Is(err, context.Canceled) {
		return c.Life.Cause()
	}
	return err
}

func (c *Engine) openTopology(ctx context.Context) error {
	var ms []topology.Member
	c.clients = map[string]*clientv3.Client{}
	for _, m := range c.cfg.Members {
		ms = append(ms, topology.Member{Name: m.Name, KV: wire.KV(m.Client), Version: wire.Version(m.Client)})
		c.clients[m.Name] = m.Client
	}
	spec := topology.Spec{Slots: c.cfg.Slots, Policy: c.cfg.Policy, MaxTxnOps: c.maxTxnOps, CoordinatorVersion: wire.Version(c.cfg.Coordinator)}
	var err error
	if c.id, err = topology.Open(ctx, wire.KV(c.cfg.Coordinator), ms, spec); err != nil {
		return err
	}
	if c.ring, err = ring.New(c.id.Names, c.id.Slots, c.cfg.Policy); err != nil {
		return err
	}
	c.Metrics.Names = c.ring.Names()
	c.doubts = mergedlog.NewDoubts(len(c.ring.Names()), c.ring.Slot)
	for i, name := range c.ring.Names() {
		cli := c.clients[name]
		c.Members = append(c.Members, member.New(member.Config{
			Index: i, Name: name, KV: wire.KV(cli), Watches: func() pb.WatchClient { return wire.Watches(cli) }, Life: c.Life, Timeout: c.timeout, MaxTxnOps: c.maxTxnOps, Logger: c.logger,
			Stopped: c.stopped, Reached: c.doubts.Reached, Seen: c.Metrics.MemberRequest,
		}))
	}
	return nil
}

// LifeOf is the life of a client that the meta cluster is installed in: that of its connection, or of its context if it has none. It is
// followed as long as the process lives.
func (c *Engine) LifeOf(cli *clientv3.Client) *bridge.Life {
	conn := cli.ActiveConnection()
	if conn == nil {
		return bridge.LifeOfContext(cli.Ctx())
	}
	life := bridge.LifeOf(conn)
	c.Life.Spawn(func() { life.Follow(c.Life.Context()) })
	return life
}
