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

// Config says what a Client works on. Coordinator and Members are required.
type Config struct {
	// Coordinator is the cluster that holds the clock. It is metaetcd's alone, keeps nothing that could not be
	// rebuilt, and may live on tmpfs. Borrowed, never closed.
	Coordinator *clientv3.Client
	// Members are the clusters that hold the data, all of them. Their order means nothing, their names do.
	Members []Member
	// Sharding is recorded when the meta cluster is created; later it must be the same.
	Sharding Sharding

	Logger  *zap.Logger           // nil: none
	Metrics prometheus.Registerer // nil: none

	// MemberTxnOps is the members' --max-txn-ops, or less. It bounds what travels together, and should be the same in all
	// processes. Default: 128, as etcd's. The least is 20: a transaction may then take about 250 operations on one member,
	// those on leases and locks included, and one that takes more is refused with rpctypes.ErrTooManyOps; a lease with
	// more than 85 keys ends at several revisions. With 40, a transaction may take 19,000, and a lease has 4,096 keys.
	MemberTxnOps int
	// MemberTimeout is how long a member's answer to a write is waited for before its outcome is settled on the
	// member's log. It is not an error's cause. Default: 2 s.
	MemberTimeout time.Duration
	// CacheEntries bounds the keys whose headers are remembered, so that writing them needs no read. Default: 65,536.
	CacheEntries int
	// LogBytes bounds the memory of recent events, which watchers that lag and reads of the recent past are served
	// from. Default: 64 MiB.
	LogBytes int64
	// ProgressInterval is how often an idle watcher that asked for it is told of progress. Default: etcd's 10 minutes.
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

// Client is one process of a meta cluster. It is safe for concurrent use.
//
// Errors are etcd's own where etcd has one (package rpctypes), as from any clientv3 client.
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
// then says for whom. Everything is checked before anything is written: a Config that cannot be, a missing, swapped, renamed or
// foreign member, another sharding or another coordinator is a *TopologyError, at once. What a coordinator does later is for
// WrongCoordinatorError and ForeignCoordinatorError to tell.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	state := newStateCollector()
	counters, err := metrics.New(cfg.Metrics, state)
	if err != nil {
		return nil, err
	}
	c, err := engine.Open(ctx, cfg.engine(counters))
	if err != nil {
		err = public(err)
		if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) { // a gRPC status does not unwrap to the context's error
			err = fmt.Errorf("%w (%w)", err, ended)
		}
		return nil, err
	}
	state.e.Store(c)
	cli := &Client{engine: c, kvs: &kvServer{e: c}, watches: &watchServer{e: c}, leases: &leaseServer{e: c}}
	// clientv3's watcher and lessor log through their client.
	carrier := clientv3.NewCtxClient(context.Background(), clientv3.WithZapLogger(cfg.Logger)) //nolint:contextcheck // it outlives the call
	cli.kv = clientv3.NewKVFromKVClient(bridge.KVClient(&kvServer{e: c, names: true}), carrier)
	cli.watcher = clientv3.NewWatchFromWatchClient(bridge.WatchClient(cli.watches), carrier)
	cli.lessor = clientv3.NewLeaseFromLeaseClient(bridge.LeaseClient(&leaseServer{e: c, names: true}), carrier, firstKeepAlive)
	return cli, nil
}

// Install makes cli's KV, Watcher and Lease those of the meta cluster; its other interfaces stay those of the server it was made
// for. Every installed client has handles of its own, which end when it is closed, with the error of a closed connection; closing it
// closes nobody else's. Call it before cli is used.
func (c *Client) Install(cli *clientv3.Client) {
	life := c.engine.LifeOf(cli)
	cli.KV = clientv3.NewKVFromKVClient(life.KVClient(c.kvs), cli)
	cli.Watcher = clientv3.NewWatchFromWatchClient(life.WatchClient(c.watches), cli)
	cli.Lease = clientv3.NewLeaseFromLeaseClient(life.LeaseClient(c.leases), cli, firstKeepAlive)
}

// Register offers the meta cluster's KV, Watch and Lease services on a gRPC server: what a proxy is made of.
func (c *Client) Register(s grpc.ServiceRegistrar) {
	pb.RegisterKVServer(s, c.kvs)
	pb.RegisterWatchServer(s, c.watches)
	pb.RegisterLeaseServer(s, c.leases)
}

// Health returns nil if all is well; otherwise an error that names the clusters with something amiss. A member or the coordinator
// does not answer; it has an alarm (a *MemberError: errors.Is finds rpctypes.ErrNoSpace or rpctypes.ErrCorrupt), which is seen if its
// user may ask for it; a member has lost its data; it holds a key that somebody else wrote (a *ForeignKeyError). Of each member's
// keys, a call looks at 1,000 and moves their names; the next one goes on behind them.
func (c *Client) Health(ctx context.Context) error { return public(c.engine.Health(ctx)) }

// Close ends the client: its watchers are cancelled, its leases are not kept alive any more, and what waits gets ErrClosed.
// Writes in flight are waited for, for about a second; one whose outcome is not known by then gets ErrUnknownOutcome.
// Borrowed clients stay open. It is idempotent.
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
