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
)

// Member is one etcd cluster that stores part of the keyspace.
type Member struct {
	Name   string           // its identity: recorded at creation, checked at every New
	Client *clientv3.Client // borrowed, never closed
}

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
		orDefault("MemberTxnOps", &cfg.MemberTxnOps, maxTxnOps),
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
	core *core

	// The services, and clientv3's types of them.
	kvs     *kvServer
	watches *watchServer
	leases  *leaseServer
	kv      clientv3.KV
	watcher clientv3.Watcher
	lessor  clientv3.Lease
}

var (
	_ clientv3.KV      = (*Client)(nil)
	_ clientv3.Watcher = (*Client)(nil)
	_ clientv3.Lease   = (*Client)(nil)
)

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
	c, err := openCore(ctx, cfg)
	if err != nil {
		if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) { // a gRPC status does not unwrap to the context's error
			err = fmt.Errorf("%w (%w)", err, ended)
		}
		return nil, err
	}
	cli := &Client{core: c, kvs: &kvServer{c: c}, watches: &watchServer{c: c}, leases: &leaseServer{c: c}}
	// clientv3's watcher and lessor log through their client.
	carrier := clientv3.NewCtxClient(context.Background(), clientv3.WithZapLogger(cfg.Logger)) //nolint:contextcheck // it outlives the call
	cli.kv = clientv3.NewKVFromKVClient(bridge.KVClient(&kvServer{c: c, names: true}), carrier)
	cli.watcher = clientv3.NewWatchFromWatchClient(bridge.WatchClient(cli.watches), carrier)
	cli.lessor = clientv3.NewLeaseFromLeaseClient(bridge.LeaseClient(&leaseServer{c: c, names: true}), carrier, firstKeepAlive)
	return cli, nil
}

// Watch satisfies clientv3.Watcher: every event of every member, in revision order.
func (c *Client) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return c.watcher.Watch(ctx, key, opts...)
}

// RequestProgress satisfies clientv3.Watcher. The revision that is announced has been delivered, with all before it.
func (c *Client) RequestProgress(ctx context.Context) error { return c.watcher.RequestProgress(ctx) }

// firstKeepAlive is how long the first keep-alive of a lease may take. clientv3 makes its default of it, 5 seconds.
const firstKeepAlive = time.Second

// Grant satisfies clientv3.Lease. It needs every member and the coordinator.
func (c *Client) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return c.lessor.Grant(ctx, ttl)
}

// Revoke satisfies clientv3.Lease. It returns when the lease's keys are deleted, on all members.
func (c *Client) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return c.lessor.Revoke(ctx, id)
}

// TimeToLive satisfies clientv3.Lease. Attached keys are those of all members, sorted.
func (c *Client) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return c.lessor.TimeToLive(ctx, id, opts...)
}

// Leases satisfies clientv3.Lease.
func (c *Client) Leases(ctx context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return c.lessor.Leases(ctx)
}

// KeepAlive satisfies clientv3.Lease. Keep-alives go to the coordinator alone.
func (c *Client) KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	return c.lessor.KeepAlive(ctx, id)
}

// KeepAliveOnce satisfies clientv3.Lease.
func (c *Client) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	return c.lessor.KeepAliveOnce(ctx, id)
}

// Install makes cli's KV, Watcher and Lease those of the meta cluster; its other interfaces stay those of the server it was made
// for. Every installed client has handles of its own, which end when it is closed, with the error of a closed connection; closing it
// closes nobody else's. Call it before cli is used.
func (c *Client) Install(cli *clientv3.Client) {
	life := c.core.lifeOf(cli)
	cli.KV = clientv3.NewKVFromKVClient(life.KVClient(c.kvs), cli)
	cli.Watcher = clientv3.NewWatchFromWatchClient(life.WatchClient(c.watches), cli)
	cli.Lease = clientv3.NewLeaseFromLeaseClient(life.LeaseClient(c.leases), cli, firstKeepAlive)
}

// lifeOf is a client's life: that of its connection, or of its context if it has none.
func (c *core) lifeOf(cli *clientv3.Client) *bridge.Life {
	conn := cli.ActiveConnection()
	if conn == nil {
		return bridge.LifeOfContext(cli.Ctx())
	}
	life := bridge.LifeOf(conn)
	c.spawn(func() { life.Follow(c.ctx) })
	return life
}

// Register offers the meta cluster's KV, Watch and Lease services on a gRPC server: what a proxy is made of.
func (c *Client) Register(s grpc.ServiceRegistrar) {
	pb.RegisterKVServer(s, c.kvs)
	pb.RegisterWatchServer(s, c.watches)
	pb.RegisterLeaseServer(s, c.leases)
}

// Revision returns a revision that covers everything acknowledged before the call, by any process.
func (c *Client) Revision(ctx context.Context) (rev int64, err error) {
	err = c.core.current(ctx, func(f *feed) error {
		rev, err = c.core.linearize(ctx, f)
		return err
	})
	return rev, c.core.orOver(ctx, err)
}

// ClosedRevision returns the revision up to which this process knows everything. It never goes back. It may lie below a revision
// that a caller of this process was told of, like that of a write which was acknowledged a moment ago; serializable reads are served
// at the higher of the two, or above.
func (c *Client) ClosedRevision() int64 { return c.core.closed() }

// Health returns nil if all is well; otherwise an error that names the clusters with something amiss. A member or the coordinator
// does not answer; it has an alarm (a *MemberError: errors.Is finds rpctypes.ErrNoSpace or rpctypes.ErrCorrupt), which is seen if its
// user may ask for it; a member has lost its data; it holds a key that somebody else wrote (a *ForeignKeyError). Of each member's
// keys, a call looks at 1,000 and moves their names; the next one goes on behind them.
func (c *Client) Health(ctx context.Context) error { return c.core.health(ctx) }

// Close ends the client: its watchers are cancelled, its leases are not kept alive any more, and what waits gets ErrClosed.
// Writes in flight are waited for, for about a second; one whose outcome is not known by then gets ErrUnknownOutcome.
// Borrowed clients stay open. It is idempotent.
func (c *Client) Close() error {
	err := errors.Join(c.watcher.Close(), c.lessor.Close())
	c.core.close()
	return err
}
