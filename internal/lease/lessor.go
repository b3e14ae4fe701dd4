package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Clock is the epoch of the coordinator; see internal/clock.
type Clock interface {
	Present() (epoch int64, holds []*pb.Compare)
	Sync(ctx context.Context) (epoch int64, err error)
	EpochChanged() <-chan struct{}
}

// Member is a cluster that holds keys.
type Member struct {
	Name string
	Txn  func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
}

// Attached is a key that was seen attached to a lease, as it was at a revision of the meta cluster.
type Attached struct {
	Key []byte
	Rev int64
}

// Config is what a Lessor works with.
type Config struct {
	Clock Clock
	// KV, Lease and Watch are the coordinator's. They send writes once: see internal/wire.
	KV    pb.KVClient
	Lease pb.LeaseClient
	Watch func() clientv3.Watcher // opens one that the lessor closes

	Members []Member
	// Known tells what is known of a key that a member has shown at a member revision without its value: the user's revision and
	// lease. May be nil.
	Known func(kv *mvccpb.KeyValue) (rev, lease int64, ok bool)
	// Delete deletes those of the keys that are still as they were seen, by stamped transactions, and returns the last
	// revision of these.
	Delete func(ctx context.Context, keys []Attached) (rev int64, err error)

	MaxTxnOps int // the members', at least 2
	Logger    *zap.Logger
	OnReaped  func() // a lease that had died is gone, and this process removed records of it; may be nil
}

// Lessor is one process's part in the leases of a meta cluster. It is safe for concurrent use.
//
// What it asks of the coordinator and the members it asks again until they answer or the caller's context ends.
type Lessor struct {
	cfg   Config
	book  *Book
	renew *renewer

	life *lifetime.Life // ends with Close

	ofCoordinator *sharing   // transactions that may travel with others
	ofMembers     []*sharing // and those of each member

	dying   singleflight.Group // reaps, by grant
	unknown singleflight.Group // renewals of leases that have no timer, by lease
	places  chan struct{}      // of reaps in the background

	unwatched, unreaped, unrenewed backoff.Outage

	mu        sync.Mutex
	scheduled map[grant]struct{}
}

// requestTimeout bounds one request, which is then sent again.
const requestTimeout = 5 * time.Second

var (
	errEpoch  = errors.New("the epoch has ended")
	errGone   = errors.New("the lease has ended")
	errExists = errors.New("the lease exists")
	errAlive  = errors.New("the lease lives")
	errHeld   = errors.New("a transaction holds the lease")
	errMoved  = errors.New("a record has changed")
)

// New returns a lessor that knows nothing yet: its Book is to be loaded, and then Run.
func New(cfg Config) *Lessor {
	cfg.MaxTxnOps = max(cfg.MaxTxnOps, 2)
	l := &Lessor{cfg: cfg, book: NewBook(len(cfg.Members)), places: make(chan struct{}, reapsAtOnce), scheduled: map[grant]struct{}{}}
	l.life = lifetime.New(context.Background())
	l.renew = newRenewer(l.life, cfg)
	l.ofCoordinator = l.sharing("", func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) { return cfg.KV.Txn(ctx, req) })
	for _, m := range cfg.Members {
		l.ofMembers = append(l.ofMembers, l.sharing(m.Name, m.Txn))
	}
	return l
}

// Run starts to reap, in the background.
func (l *Lessor) Run() { l.life.Spawn(l.reapers) }

// Shut ends the lessor, without waiting: what waits for it gets context.Canceled. It is idempotent.
func (l *Lessor) Shut() { l.life.End(context.Canceled) }

// Close is Shut, and returns when nothing of the lessor is left.
func (l *Lessor) Close() {
	l.Shut()
	l.life.Wait()
}

// Book is what the process knows of the members' records.
func (l *Lessor) Book() *Book { return l.book }

// persist repeats a request until it is answered, is refused for certain, or ctx ends.
func persist[T any](ctx context.Context, request func(ctx context.Context) (T, error)) (T, error) {
	var last error
	for retry := (backoff.Backoff{}); ; {
		once, cancel := context.WithTimeout(ctx, requestTimeout)
		resp, err := request(once)
		cancel()
		if err == nil || !wire.Passing(err) {
			return resp, err
		}
		last = backoff.Last(ctx, last, err)
		if !retry.Wait(ctx) {
			return resp, fmt.Errorf("%w (last error: %w)", ctx.Err(), last)
		}
	}
}

// coordinator sends a transaction to the coordinator.
func (l *Lessor) coordinator(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	return persist(ctx, func(ctx context.Context) (*pb.TxnResponse, error) {
		resp, err := l.cfg.KV.Txn(ctx, req)
		if err != nil {
			return nil, wire.Name("", err)
		}
		return resp, nil
	})
}

// member sends a transaction to a member.
func (l *Lessor) member(ctx context.Context, i int, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	return persist(ctx, func(ctx context.Context) (*pb.TxnResponse, error) {
		resp, err := l.cfg.Members[i].Txn(ctx, req)
		if err != nil {
			return nil, wire.Name(l.cfg.Members[i].Name, err)
		}
		return resp, nil
	})
}

// eachMember runs f for all members at once and returns the first error when all are done: a request that is given up may
// still arrive.
func (l *Lessor) eachMember(f func(member int) error) error {
	var g errgroup.Group
	for i := range l.cfg.Members {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// sync learns of the coordinator's epoch after something was refused because of it.
func (l *Lessor) sync(ctx context.Context) error {
	_, err := l.cfg.Clock.Sync(ctx)
	return err
}

// newGrant names a grant. The native lease of that name would be refused if, against all odds, there were one.
func newGrant() int64 { return 1 + rand.Int64N(1<<62) }

// own is the record of a grant, as living members have it.
func own(g, ttl int64) record.LeaseRecord { return record.LeaseRecord{Grant: g, TTL: ttl} }
