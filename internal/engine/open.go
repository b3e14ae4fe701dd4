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
	servers []*wire.Servers             // of the members, and of the coordinator for the leases: adds on the clock are sent again instead
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
	e := &Engine{
		cfg: cfg, Life: lifetime.New(context.Background()), Metrics: cfg.Metrics, //nolint:contextcheck // the process outlives the call
		maxTxnOps: cfg.MaxTxnOps, timeout: cfg.Timeout, logger: cfg.Logger,
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if err := e.openTopology(ctx); err != nil {
		return nil, err
	}
	e.wire() //nolint:contextcheck // what is wired is the process's
	if err := e.Clock.Open(ctx); err != nil {
		return nil, err
	}
	e.start() //nolint:contextcheck // what is started is the process's
	f, err := e.openFirst(ctx)
	if err != nil {
		return nil, err
	}
	e.Feeds.Set(f)
	e.Leases.Run()
	e.Life.Spawn(func() { e.supervise(f) }) //nolint:contextcheck // the process outlives the call
	return e, nil
}

// wire makes the rooms that the clock begins with. They refer to later ones, but use them only when those are there.
func (e *Engine) wire() {
	e.Feeds = feed.NewCurrent(e.Life, feed.Identity{
		ClusterID: e.id.ClusterID, MemberID: rand.Uint64() | 1, Epoch: func() int64 { return e.Clock.Epoch() },
	})
	e.cache = statecache.New(e.cfg.CacheEntries)
	e.Clock = clock.New(e.clockConfig(wire.KV(e.cfg.Coordinator)))
	e.Leases = lease.New(e.leaseConfig())
}

// start makes the rooms that serve. Only the lanes of commit run by themselves.
func (e *Engine) start() {
	e.commit = commit.New(e.commitConfig())
	// Nobody waits for outcomes for ever when the process is over.
	context.AfterFunc(e.Life.Context(), func() { time.AfterFunc(2*member.Linger, e.commit.Abandon) })
	e.Reads = read.New(read.Config{
		Life: e.Life, Feeds: e.Feeds, Members: e.Members, CompactedOn: e.compactedOn(), Ring: e.ring, Clock: e.Clock, Commit: e.commit, Leases: e.Leases, Cache: e.cache,
		CacheEntries: e.cfg.CacheEntries, MaxTxnOps: e.maxTxnOps, OnFencedRead: e.Metrics.FencedReads.Inc,
	})
	e.cross = crosstxn.New(crosstxn.Config{
		Life: e.Life, Feeds: e.Feeds, Reads: e.Reads, Members: e.Members, Ring: e.ring, Clock: e.Clock, Commit: e.commit, Doubts: e.doubts, Cache: e.cache,
		MaxTxnOps: e.maxTxnOps, Timeout: e.timeout, Logger: e.logger,
		OnRangeDelete: func(stamp int64) { e.Writes.DropEntriesBehind(stamp) },
		OnDecided:     e.Metrics.Crossings.Inc, OnLockWait: e.Metrics.LockWaits.Inc,
		OnRollForward: e.Metrics.RollForwards.Inc, OnAbort: e.Metrics.Aborts.Inc,
	})
	e.Writes = write.New(write.Config{
		Life: e.Life, Feeds: e.Feeds, Reads: e.Reads, Cross: e.cross, Members: e.Members, Ring: e.ring, Commit: e.commit, Cache: e.cache, Leases: e.Leases,
		MaxTxnOps: e.maxTxnOps, Timeout: e.timeout, Logger: e.logger,
		OnReapedKeys: func(n int64) { e.Metrics.ReapedKeys.Add(float64(n)) },
	})
	e.feedCfg = feed.Config{
		Life: e.Life, Feeds: e.Feeds, Members: e.Members, CompactedOn: e.compactedOn(), Ring: e.ring, Clock: e.Clock, Leases: e.Leases, Cache: e.cache, Doubts: e.doubts,
		MaxTxnOps: e.maxTxnOps, Timeout: e.timeout, LogBytes: e.cfg.LogBytes, ProgressInterval: e.cfg.ProgressInterval, Logger: e.logger,
		Holds: e.commit.Holds, OnFence: e.Metrics.Fences.Inc, Settle: e.cross.FinishDecided, Resolver: e.cross.NewResolver,
	}
}

// Watch serves one stream of the Watch service, by the feed that is there when it begins; while there is none it waits. It returns when
// the stream ends, or the feed does.
func (e *Engine) Watch(stream pb.Watch_WatchServer) error {
	f, err := e.Feeds.Wait(stream.Context())
	if err != nil {
		return err
	}
	return f.Watch(stream)
}

// Over returns the error that ended a request, or why the process is over if that is what ended it.
func (e *Engine) Over(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !e.Life.Over() || errors.Is(err, commit.ErrUnknown) {
		return err
	}
	switch status.Code(err) {
	case codes.Canceled, codes.Unavailable, codes.Unknown, codes.DeadlineExceeded:
		return e.Life.Cause()
	}
	if errors.Is(err, context.Canceled) {
		return e.Life.Cause()
	}
	return err
}

func (e *Engine) openTopology(ctx context.Context) error {
	var ms []topology.Member
	e.clients = map[string]*clientv3.Client{}
	for _, m := range e.cfg.Members {
		ms = append(ms, topology.Member{Name: m.Name, KV: wire.KV(m.Client), Version: wire.Version(m.Client)})
		e.clients[m.Name] = m.Client
	}
	spec := topology.Spec{Slots: e.cfg.Slots, Policy: e.cfg.Policy, MaxTxnOps: e.maxTxnOps, CoordinatorVersion: wire.Version(e.cfg.Coordinator)}
	var err error
	if e.id, err = topology.Open(ctx, wire.KV(e.cfg.Coordinator), ms, spec); err != nil {
		return err
	}
	if e.ring, err = ring.New(e.id.Names, e.id.Slots, e.cfg.Policy); err != nil {
		return err
	}
	e.ring = e.ring.Numbered(e.id.Numbers)
	e.Metrics.Names = e.ring.Names()
	e.doubts = mergedlog.NewDoubts(len(e.ring.Names()), e.ring.Slot)
	for i, name := range e.ring.Names() {
		servers := wire.NewServers(e.Life, e.clients[name])
		e.servers = append(e.servers, servers)
		e.Members = append(e.Members, member.New(member.Config{
			Index: i, Name: name, KV: servers.KV(), Watches: servers.Watches, Life: e.Life, Timeout: e.timeout, MaxTxnOps: e.maxTxnOps, Logger: e.logger,
			Stopped: e.stopped, Reached: e.doubts.Reached, Seen: e.Metrics.MemberRequest,
		}))
	}
	return nil
}

// compactedOn is the member whose record `compacted` counts.
func (e *Engine) compactedOn() *member.Member { return e.Members[e.id.Compacted] }

// LifeOf is the life of a client that the meta cluster is installed in: that of its connection, or of its context if it has none. It is
// followed as long as the process lives.
func (e *Engine) LifeOf(cli *clientv3.Client) *bridge.Life {
	conn := cli.ActiveConnection()
	if conn == nil {
		return bridge.LifeOfContext(cli.Ctx())
	}
	life := bridge.LifeOf(conn)
	e.Life.Spawn(func() { life.Follow(e.Life.Context()) })
	return life
}
