package member

import (
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// Member is one member cluster as this process talks to it. It is safe for concurrent use.
type Member struct {
	Config

	points *points

	away      atomic.Bool        // see NoteAway
	unwatched backoff.Outage     // its stream
	newest    lifetime.Watermark // the highest member revision that it has shown
	old       backoff.Outage     // it answers at older ones

	mu   sync.Mutex
	from []byte // where LookForStrays goes on; nil: at the first key
}

// Config is what a member is made of. It does not change.
type Config struct {
	Index int    // its place in the order of names
	Name  string // for errors

	// KV is its KV service, which sends writes once; see internal/wire. Watches returns a client of its Watch service for each use:
	// such a client learns how long the servers take to answer what it is used for.
	KV      pb.KVClient
	Watches func() pb.WatchClient

	Life      *lifetime.Life // of the process
	Timeout   time.Duration  // of a request that several callers share
	MaxTxnOps int            // the member's --max-txn-ops
	Logger    *zap.Logger

	// Stopped returns why nothing may be sent any more; nil: it may. Reached is told the member revisions that answers show, and
	// Seen of every request. They are called concurrently, and are fast.
	Stopped func() error
	Reached func(member int, rev int64)
	Seen    func(member int, method string, err error)
}

// New returns a member to which nothing has been sent yet. It starts nothing.
func New(cfg Config) *Member {
	m := &Member{Config: cfg}
	m.points = m.newPoints()
	return m
}

// Past returns the member's history.
func (m *Member) Past() history.Member { return history.Of(m.KV, m.Watches(), m.ReadPoint) }

// Linger is how long Close waits for requests that are under way. For outcomes it waits twice as long.
const Linger = 500 * time.Millisecond
