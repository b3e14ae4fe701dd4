package member

import (
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Member is one member cluster as this process talks to it. Safe for concurrent use.
type Member struct {
	Config
	KV     pb.KVClient
	Points *readBatcher
	Away   atomic.Bool // it did not answer a transaction across members; see awaitBack

	Unwatched backoff.Outage     // its stream
	Newest    lifetime.Watermark // the highest revision that it has shown
	Old       backoff.Outage     // it answers at older ones

	mu   sync.Mutex
	from []byte // where Health looks for foreign keys next; nil: at the first
}

// Config is what a member is made of.
type Config struct {
	Index  int    // its place in the order of names
	Name   string // for errors
	Client *clientv3.Client
	Life   *lifetime.Life // of the process

	Timeout   time.Duration // of a request that several callers share
	MaxTxnOps int           // the member's --max-txn-ops
	Logger    *zap.Logger

	// stopped returns why nothing may be sent any more; nil: it may. reached is told the revisions that answers show, and seen
	// of every request.
	Stopped func() error
	Reached func(member int, rev int64)
	Seen    func(member int, method string, err error)
}

func New(cfg Config) *Member {
	m := &Member{Config: cfg, KV: wire.KV(cfg.Client)}
	m.Points = &readBatcher{m: m, most: min(sharedReads, cfg.MaxTxnOps)}
	return m
}

// Linger is how long Close waits for requests that are under way. For outcomes it waits twice as long.
const Linger = 500 * time.Millisecond
