package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/metrics"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// Config says which clusters a Client works on, and how. Coordinator and Members are required; everything else has a default.
type Config struct {
	// Coordinator is a client of the cluster that holds the clock. The cluster is metaetcd's alone. It keeps nothing that could not be
	// rebuilt, and may live on tmpfs. The client is borrowed: it is never closed.
	Coordinator *clientv3.Client
	// Members are the clusters that hold the data, all of them. Their order means nothing, their names do.
	Members []Member
	// Sharding decides which member a key lives on. It is recorded when the meta cluster is created; later it must be the same. The
	// default is that of Sharding's fields: each key by itself.
	Sharding Sharding

	// Logger is told of outages, once when they begin and once when they end, and of what stops the client. Keys and values are not
	// logged. The default is none.
	Logger *zap.Logger
	// Metrics is where the client's collectors are registered until it is closed. Their names begin with metaetcd_, so that two clients
	// of one process need two registerers; see prometheus.WrapRegistererWith. The default is none.
	Metrics prometheus.Registerer

	// MemberTxnOps is the members' --max-txn-ops, or less. It bounds what one request to a member carries, and should be the same in all
	// processes. With the least, 20, a transaction may take about 250 operations on one member, those on leases and locks included, and
	// a lease with more than 85 keys ends at several revisions; with 40, a transaction may take 19,000, and a lease has 4,096 keys. A
	// transaction that takes more is refused with rpctypes.ErrTooManyOps. The default is 128, as etcd's.
	MemberTxnOps int
	// MemberTimeout is how long a member may take to answer a write before its log is asked what became of the write. No request fails
	// because of it. The default is 2 seconds.
	MemberTimeout time.Duration
	// CacheEntries is the number of keys whose headers are remembered, so that writing them needs no read. The default is 65,536.
	CacheEntries int
	// LogBytes is about how much memory recent events may take, in bytes. Watchers that lag and reads of the recent past are served from
	// them; what is older is read from the members. While a member is away, what the others write waits for it, in up to twice as much
	// memory more; what does not fit is read from the members when it is back. The default is 64 MiB.
	LogBytes int64
	// ProgressInterval is how long a watcher with clientv3.WithProgressNotify is idle before it is told of progress. The default is 10
	// minutes, as etcd's.
	ProgressInterval time.Duration
}

// engine is the configuration as the engine takes it.
func (cfg *Config) engine(counters *metrics.Set) engine.Config {
	e := engine.Config{
		Coordinator: cfg.Coordinator,
		Slots:       cfg.Sharding.Slots, Policy: ring.Policy{Segments: cfg.Sharding.Segments, Separator: cfg.Sharding.Separator},
		MaxTxnOps: cfg.MemberTxnOps, Timeout: cfg.MemberTimeout, CacheEntries: cfg.CacheEntries, LogBytes: cfg.LogBytes,
		ProgressInterval: cfg.ProgressInterval, Logger: cfg.Logger, Metrics: counters,
	}
	for _, m := range cfg.Members {
		e.Members = append(e.Members, engine.Member{Name: m.Name, Client: m.Client})
	}
	return e
}

// leastTxnOps is the least MemberTxnOps. A put by itself takes 9; see translate.Room for transactions under locks.
const leastTxnOps = 20

// withDefaults fills in what is not set, and refuses what cannot be. Names and Sharding are checked by topology.Open.
func (cfg *Config) withDefaults() error {
	if cfg.Coordinator == nil {
		return invalid("Config.Coordinator is missing")
	}
	for _, m := range cfg.Members {
		if m.Client == nil {
			return invalid("member %q has no client", m.Name)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	cfg.Sharding = cfg.Sharding.withDefaults()
	if ops := cfg.MemberTxnOps; 0 < ops && ops < leastTxnOps {
		return invalid("Config.MemberTxnOps is %d, and the least is %d", ops, leastTxnOps)
	}
	return errors.Join(
		orDefault("MemberTxnOps", &cfg.MemberTxnOps, validate.MaxTxnOps),
		orDefault("MemberTimeout", &cfg.MemberTimeout, 2*time.Second),
		orDefault("CacheEntries", &cfg.CacheEntries, 1<<16),
		orDefault("LogBytes", &cfg.LogBytes, 64<<20),
		orDefault("ProgressInterval", &cfg.ProgressInterval, 10*time.Minute),
	)
}

// orDefault sets a field that is 0 to its default, and refuses a negative one.
func orDefault[N int | int64 | time.Duration](name string, field *N, otherwise N) error {
	switch {
	case *field == 0:
		*field = otherwise
	case *field < 0:
		return invalid("Config.%s is negative: %v", name, *field)
	}
	return nil
}

// invalid refuses a configuration that cannot be.
func invalid(format string, args ...any) error {
	return &TopologyError{Kind: ErrConfig, Got: fmt.Sprintf(format, args...)}
}

// Client is one process of a meta cluster, with the KV, Watcher and Lease interfaces of clientv3. It is safe for concurrent use.
//
// Requests wait for clusters that do not answer, until their context ends or the client is closed. Errors are etcd's own where etcd has
// one (package rpctypes), as from any clientv3 client; the package's own are listed at the top.
type Client struct {
	engine *engine.Engine

	// The services, and clientv3's types of them.
	kvs     *kvServer
	watches *watchServer
	leases  *leaseServer
	kv      clientv3.KV
	watcher clientv3.Watcher
	lessor  clientv3.Lease
}

// New opens a meta cluster, or creates it when its clusters are empty, and returns when the client can serve. Any number of
// processes may create the same meta cluster at once.
//
// It needs the coordinator and every member: while one of them does not answer, New waits for it until ctx ends, and the error
// then names it. ctx bounds the opening alone; the client lives until Close.
//
// Everything is checked before anything is written. A Config that is invalid, a missing, swapped, renamed or foreign member, another
// sharding, another coordinator or a server that is too old is a [*TopologyError], at once. When the coordinator is replaced later,
// requests fail with a [*WrongCoordinatorError] or a [*ForeignCoordinatorError]. Metrics that cannot be registered are an error, too.
// After an error nothing of the client is left.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	state := newStateCollector()
	counters, err := metrics.New(cfg.Metrics, state)
	if err != nil {
		return nil, err
	}
	e, err := engine.Open(ctx, cfg.engine(counters))
	if err != nil {
		err = public(err)
		if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) { // a gRPC status does not unwrap to the context's error
			err = fmt.Errorf("%w (%w)", err, ended)
		}
		return nil, err
	}
	state.e.Store(e)
	cli := &Client{engine: e, kvs: &kvServer{e: e}, watches: &watchServer{e: e}, leases: &leaseServer{e: e}}
	// clientv3's watcher and lessor log through their client.
	carrier := clientv3.NewCtxClient(context.Background(), clientv3.WithZapLogger(cfg.Logger)) //nolint:contextcheck // it outlives the call
	cli.kv = clientv3.NewKVFromKVClient(bridge.KVClient(&kvServer{e: e, names: true}), carrier)
	cli.watcher = clientv3.NewWatchFromWatchClient(bridge.WatchClient(cli.watches), carrier)
	cli.lessor = clientv3.NewLeaseFromLeaseClient(bridge.LeaseClient(&leaseServer{e: e, names: true}), carrier, firstKeepAlive)
	return cli, nil
}

// Install makes cli's KV, Watcher and Lease those of the meta cluster; its other interfaces, like Status and MemberList, stay those of the
// server that it was made for. It is for code that takes a *clientv3.Client. Call it before cli is used: it replaces fields of cli, without
// a lock.
//
// The interfaces end when cli is closed, with the error of a closed connection, and when c is closed. Closing cli closes neither c nor
// other clients. Errors are etcd's own, without the names of clusters, because code that was written for etcd compares them
// with ==.
func (c *Client) Install(cli *clientv3.Client) {
	life := c.engine.LifeOf(cli)
	cli.KV = clientv3.NewKVFromKVClient(life.KVClient(c.kvs), cli)
	cli.Watcher = clientv3.NewWatchFromWatchClient(life.WatchClient(c.watches), cli)
	cli.Lease = clientv3.NewLeaseFromLeaseClient(life.LeaseClient(c.leases), cli, firstKeepAlive)
}

// Register offers the meta cluster's KV, Watch and Lease services on a gRPC server, for clients in other processes and languages. Errors
// are etcd's own, as with [Client.Install]. Call it before the server serves, and close c when the server has stopped.
func (c *Client) Register(s grpc.ServiceRegistrar) {
	pb.RegisterKVServer(s, c.kvs)
	pb.RegisterWatchServer(s, c.watches)
	pb.RegisterLeaseServer(s, c.leases)
}

// Health asks all clusters how they are. It returns nil if all is well; otherwise all that is amiss, joined, each with the name of its
// cluster:
//
//   - a cluster does not answer before ctx ends: a [*MemberError]. So give ctx a deadline.
//   - a cluster has an alarm: a *MemberError in which errors.Is finds rpctypes.ErrNoSpace or rpctypes.ErrCorrupt. Alarms are seen only
//     where the client's user may ask for them.
//   - a member has lost its data, or has gone back to older ones.
//   - a member holds a key that somebody else wrote: a [*ForeignKeyError]. Each call looks at 1,000 keys of each member, and the next
//     one goes on behind them.
//
// It is meant to be called every few seconds at most.
func (c *Client) Health(ctx context.Context) error { return public(c.engine.Health(ctx)) }

// Close ends the client: watches are cancelled, leases are not kept alive any more, and what waits gets [ErrClosed]. Writes in flight are
// waited for, for about a second; one whose outcome is not known by then gets [ErrUnknownOutcome]. When Close returns, no goroutine of
// the client is left, and its metrics are unregistered. Borrowed clients stay open. It may be called several times.
func (c *Client) Close() error {
	err := errors.Join(c.watcher.Close(), c.lessor.Close())
	c.engine.Close()
	return err
}

var (
	_ clientv3.KV      = (*Client)(nil)
	_ clientv3.Watcher = (*Client)(nil)
	_ clientv3.Lease   = (*Client)(nil)
)
