package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

// Config is what feeds work with.
type Config struct {
	Life    *lifetime.Life
	Feeds   *Current
	Members []*member.Member
	Ring    *ring.Ring
	Clock   *clock.Clock
	Leases  *lease.Lessor
	Cache   *statecache.Cache

	Doubts *mergedlog.Doubts

	MaxTxnOps        int
	Timeout          time.Duration
	LogBytes         int64
	ProgressInterval time.Duration
	Logger           *zap.Logger

	Holds    func(stamp int64) bool // this process holds the stamp: it is about to land or to be given up
	OnFence  func()                 // a fence was raised
	Settle   func(ctx context.Context, f *Feed, now int64) error
	Resolver func(f *Feed) Resolver
}

// Resolver finishes transactions whose locks a feed shows, when their writers have gone.
type Resolver interface {
	// run works until ctx ends, with the feed.
	Run(ctx context.Context)
	// kick makes it look at the locks. It is cheap.
	Kick()
}

// Feed is one unbroken run of the members' streams: the merged log they fill, and the watchers on it. When compaction
// overtakes a stream, events are lost to this process: the feed ends, its watchers are cancelled with ErrCompacted, and
// the engine opens a new one. All of it is safe for concurrent use.
type Feed struct {
	cfg     *Config
	Log     *mergedlog.Log
	Hub     *watchhub.Hub
	Fencer  *fencer.Fencer
	locks   Resolver
	history *history.History

	passed    lifetime.Watermark // up to here the hub needs nothing of the log for the watchers who keep up
	forgotten lifetime.Watermark

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	Ended  chan struct{} // closed when err is set
	once   sync.Once
	Err    error

	replaced chan struct{} // closed when the feed has ended, and does not serve any more
}

// Open starts the streams and closes everything up to the clock's present revision ("Life of a feed" in docs/architecture/ordering.md).
func Open(ctx context.Context, cfg *Config) (*Feed, error) {
	f := &Feed{cfg: cfg, Ended: make(chan struct{}), replaced: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.Log = mergedlog.New(mergedlog.Config{Members: len(cfg.Members), SlotOf: cfg.Ring.Slot, MaxBytes: cfg.LogBytes, Doubts: cfg.Doubts, OnRecord: f.onRecord})
	cfg.Feeds.follow(f.Log)
	f.Fencer = newFencer(f)
	f.locks = cfg.Resolver(f)
	f.history = history.New(f.historyConfig())
	if err := f.start(ctx); err != nil {
		f.Close()
		if errors.Is(f.Err, errLog) { // why it had to end by itself
			err = f.Err
		}
		return nil, err
	}
	f.Hub = watchhub.New(source{f}, watchhub.Options{ProgressInterval: cfg.ProgressInterval, Logger: cfg.Logger})
	f.wg.Go(func() { f.Fencer.Run(f.ctx) })
	return f, nil
}

func (f *Feed) historyConfig() history.Config {
	cfg := history.Config{Log: f.Log, SlotOf: f.cfg.Ring.Slot, Compacted: f.cfg.Feeds.Compacted.Load, MembersOf: f.cfg.Ring.MembersOf}
	for _, m := range f.cfg.Members {
		cfg.Members = append(cfg.Members, m.Past())
	}
	return cfg
}

// Compacted implements watchhub.Source.
func (s source) Compacted() int64 { return s.f.cfg.Feeds.Compacted.Load() }

// Told implements watchhub.Source.
func (s source) Told() int64 { return s.f.cfg.Feeds.Known() }

// Await implements watchhub.Source.
func (s source) Await(rev int64) { s.f.Await(min(rev, s.Told())) }

// Header implements watchhub.Source.
func (s source) Header() *pb.ResponseHeader { return s.f.cfg.Feeds.Header() }

// Passed implements watchhub.Source.
func (s source) Passed(rev int64) {
	s.f.passed.Raise(rev)
	s.f.Forget()
}

// Go runs fn as a part of the feed, with its context: closing the feed waits for it.
func (f *Feed) Go(fn func(ctx context.Context)) { f.wg.Go(func() { fn(f.ctx) }) }
