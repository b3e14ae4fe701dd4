package crosstxn

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/record"
)

// lockTick is how often locks are looked at while there are any.
const lockTick = 20 * time.Millisecond

// resolver finishes the transactions of writers that have gone (section 12): locks that the members' streams show for
// longer than their writer asked for, and longer than the grace, are followed to their decision, and it is applied; or, if
// there is none, there never will be, and the locks are released.
type resolver struct {
	c     *Runner
	f     *feed.Feed
	woken chan struct{}

	mu   sync.Mutex
	busy map[record.TxnID]struct{} // being finished

	seen map[record.TxnID]time.Time // due; of the run goroutine
}

func (c *Runner) NewResolver(f *feed.Feed) feed.Resolver {
	return &resolver{c: c, f: f, woken: make(chan struct{}, 1), busy: map[record.TxnID]struct{}{}, seen: map[record.TxnID]time.Time{}}
}

// Kick makes the keeper look, if there are locks. It is cheap.
func (k *resolver) Kick() {
	if k.f.Log.Locked() == 0 {
		return
	}
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

func (k *resolver) Run(ctx context.Context) {
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		select {
		case <-k.woken:
		case <-ctx.Done():
			return
		}
		for k.look(time.Now()) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// look finishes what is due. It reports whether there are locks.
func (k *resolver) look(now time.Time) bool {
	if k.c.Life.Over() { // its requests are not sent any more
		return false
	}
	locks := k.f.Log.Locks()
	held := map[record.TxnID]bool{}
	for _, l := range locks {
		if held[l.ID] {
			continue
		}
		held[l.ID] = true
		due, known := k.seen[l.ID]
		if _, own := k.c.open.Load(l.ID); own || !known {
			// Several processes see it: one of them will be first.
			due = now.Add(max(l.Patience, k.f.Fencer.Grace()) + rand.N(feed.MinPatience))
			k.seen[l.ID] = due
		}
		if now.After(due) {
			k.finish(l.Holder)
		}
	}
	for id := range k.seen {
		if !held[id] {
			delete(k.seen, id)
		}
	}
	return len(locks) > 0
}

// finish finishes a transaction, beside others.
func (k *resolver) finish(h record.Holder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, busy := k.busy[h.ID]; busy {
		return
	}
	k.busy[h.ID] = struct{}{}
	k.f.Go(func(ctx context.Context) {
		if err := k.resolve(ctx, h); err != nil && ctx.Err() == nil {
			k.c.Logger.Info("could not finish a transaction whose writer has gone", zap.Error(err))
		}
		k.mu.Lock()
		delete(k.busy, h.ID)
		k.mu.Unlock()
	})
}
