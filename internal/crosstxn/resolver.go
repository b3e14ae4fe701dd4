package crosstxn

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// lockTick is how often locks are looked at while there are any.
const lockTick = 20 * time.Millisecond

// lockView is what the streams show of locks; a *mergedlog.Log has it.
type lockView interface {
	// Locked is how many locks there are. It is cheap.
	Locked() int
	Locks() []mergedlog.Lock
	// WaitReached waits until the member's stream has come as far as its revision rev.
	WaitReached(ctx context.Context, member int, rev int64) error
}

// resolver finishes the transactions of writers that have gone, for one feed: locks that its streams show for longer than their
// writer asked for, and for longer than the grace, are followed to their decision, which is applied; or there is none and never
// will be, and the locks are taken. A transaction of this process is left alone while it is at work on it, and its time begins
// when that is over. Each is finished by one goroutine at a time.
type resolver struct {
	runner *Runner
	view   lockView
	grace  func() time.Duration               // how long a slow writer may take at present
	spawn  func(fn func(ctx context.Context)) // runs fn beside the caller, with a context that ends with the feed
	woken  chan struct{}

	outage backoff.Outages[record.TxnID]

	mu   sync.Mutex
	busy map[record.TxnID]struct{} // being finished

	due map[record.TxnID]time.Time // when those whose locks are seen may be finished; of the goroutine of Run
}

// NewResolver makes the resolver of a feed, which runs it.
func (r *Runner) NewResolver(f *feed.Feed) feed.Resolver {
	return newResolver(r, f.Log, f.Fencer.Grace, f.Go)
}

func newResolver(r *Runner, view lockView, grace func() time.Duration, spawn func(fn func(ctx context.Context))) *resolver {
	return &resolver{
		runner: r, view: view, grace: grace, spawn: spawn, woken: make(chan struct{}, 1),
		busy: map[record.TxnID]struct{}{}, due: map[record.TxnID]time.Time{},
	}
}

// Kick makes Run look, if there are locks. It is cheap, and never waits.
func (rs *resolver) Kick() {
	if rs.view.Locked() > 0 {
		lifetime.Wake(rs.woken)
	}
}

// Run looks at the locks, from a Kick on until there are none, and finishes what is due. It returns when ctx ends.
func (rs *resolver) Run(ctx context.Context) {
	for {
		select {
		case <-rs.woken:
		case <-ctx.Done():
			return
		}
		for rs.look(time.Now()) {
			if lifetime.Pause(ctx, lockTick) != nil {
				return
			}
		}
	}
}

// look finishes what is due. It reports whether there are locks.
func (rs *resolver) look(now time.Time) bool {
	if rs.runner.cfg.Life.Over() { // its requests are not sent any more
		return false
	}
	locks := rs.view.Locks()
	held := map[record.TxnID]bool{}
	for _, l := range locks {
		if held[l.ID] {
			continue
		}
		held[l.ID] = true
		due, known := rs.due[l.ID]
		if !known || rs.runner.atWork(l.ID) {
			// Several processes see it: one of them will be first.
			due = now.Add(max(l.Patience, rs.grace()) + rand.N(feed.MinPatience))
			rs.due[l.ID] = due
		}
		if now.After(due) {
			rs.finish(l.Holder)
		}
	}
	for id := range rs.due {
		if !held[id] {
			delete(rs.due, id)
			rs.over(id)
		}
	}
	return len(locks) > 0
}

// over notes that a transaction is finished.
func (rs *resolver) over(id record.TxnID) {
	if rs.outage.Ends(id) {
		rs.runner.cfg.Logger.Info("what writers that have gone left is finished again")
	}
}

// finish finishes a transaction, beside others, unless that is under way.
func (rs *resolver) finish(h record.Holder) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if _, busy := rs.busy[h.ID]; busy {
		return
	}
	rs.busy[h.ID] = struct{}{}
	rs.spawn(func(ctx context.Context) {
		switch err := rs.resolve(ctx, h); {
		case err == nil:
			rs.over(h.ID)
		case ctx.Err() == nil && rs.outage.Begins(h.ID):
			rs.runner.cfg.Logger.Info("could not finish a transaction whose writer has gone; trying again", zap.Error(err))
		}
		rs.mu.Lock()
		delete(rs.busy, h.ID)
		rs.mu.Unlock()
	})
}
