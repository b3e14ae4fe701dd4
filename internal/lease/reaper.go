package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

const (
	// reapsAtOnce bounds the leases that a process reaps in the background at one time.
	reapsAtOnce = 32
	// reapAfter is how long a process waits at least, and at most twice as long, before it reaps a lease whose sentinel has
	// gone: the one that revoked it, or whoever is first, then has marked it.
	reapAfter = 20 * time.Millisecond
	// standBack is how long a process leaves a lease alone that another one is reaping.
	standBack = time.Second
	// lookAgain is how often all records are held against the sentinels, for what nobody has noticed.
	lookAgain = 10 * time.Second
	// lookSoon is how long a living record that has just appeared goes unchecked: it may be a late one, of a grant that was reaped.
	lookSoon = 200 * time.Millisecond
	// reapRetry is how long a failed reap rests.
	reapRetry = time.Second
)

// reapers watches the sentinels, and reaps leases whose sentinel has gone.
func (l *Lessor) reapers() {
	for !l.life.Over() {
		if err := l.watchSentinels(l.life.Context()); err != nil && !l.life.Over() {
			if l.unwatched.Begins() {
				l.cfg.Logger.Warn("the coordinator's leases cannot be watched; trying again", zap.Error(err))
			}
			_ = lifetime.Pause(l.life.Context(), reapRetry)
		}
	}
}

// watchSentinels follows one stream of the coordinator, until it ends or the epoch does: the next life of a coordinator has
// other revisions.
func (l *Lessor) watchSentinels(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := l.cfg.Clock.EpochChanged()
	w := l.cfg.Watch()
	defer func() { _ = w.Close() }()
	events := w.Watch(clientv3.WithRequireLeader(ctx), sentinelPrefix, clientv3.WithRange(sentinelEnd), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	soon, news := time.NewTimer(lookSoon), l.book.news
	soon.Stop()
	defer soon.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return nil
			}
			if err := resp.Err(); err != nil {
				return err
			}
			if resp.Created {
				again.Reset(0) // for what came before
				if l.unwatched.Ends() {
					l.cfg.Logger.Info("the coordinator's leases are watched again")
				}
			}
			for _, ev := range resp.Events {
				if rec, ok := l.book.Living(sentinelOf(ev.Kv.Key)); ok {
					l.schedule(grant{sentinelOf(ev.Kv.Key), rec.Grant}) //nolint:contextcheck // what is scheduled is the lessor's
				}
			}
		case <-again.C:
			if err := l.reconcile(ctx); err != nil {
				return err
			}
			l.renew.forget()
			again.Reset(lookAgain)
		case <-news:
			news = nil // until then
			soon.Reset(lookSoon)
		case <-soon.C:
			news = l.book.news
			if err := l.lookAt(ctx, l.book.takeAppeared()); err != nil {
				return err
			}
		case <-changed:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// reconcile looks at all grants that have a record.
func (l *Lessor) reconcile(ctx context.Context) error {
	return l.compare(ctx, l.book.all(), allSentinels())
}

// lookAt looks at some of them.
func (l *Lessor) lookAt(ctx context.Context, grants []grant) error {
	for part := range slices.Chunk(grants, l.cfg.MaxTxnOps) {
		var reads []*pb.RequestOp
		for _, g := range part {
			reads = append(reads, getOp(sentinelKey(g.id), nil))
		}
		if err := l.compare(ctx, part, reads...); err != nil {
			return err
		}
	}
	return nil
}

// compare schedules those of some grants that have a record and no sentinel. The sentinels are read when the records are known: they
// come before them.
func (l *Lessor) compare(ctx context.Context, grants []grant, reads ...*pb.RequestOp) error {
	sentinels, err := l.sentinels(ctx, reads...)
	if err != nil {
		return err
	}
	for _, g := range grants {
		if sentinels[g.id] != g.grant {
			l.schedule(g) //nolint:contextcheck // what is scheduled is the lessor's
		}
	}
	return nil
}

// schedule makes sure that a grant that seems to have died is reaped, by this process or another.
func (l *Lessor) schedule(g grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.scheduled[g]; ok {
		return
	}
	spawned := l.life.Spawn(func() {
		l.see(g)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.scheduled, g)
	})
	if spawned {
		l.scheduled[g] = struct{}{}
	}
}

// see waits until a grant is gone, or turns out to live. It reaps it, after others had their chance: the mark is the election.
func (l *Lessor) see(g grant) {
	stoodBack := false
	for wait := reapAfter + rand.N(reapAfter); lifetime.Pause(l.life.Context(), wait) == nil; {
		present, dead := l.book.state(g)
		if !present {
			return
		}
		if dead && !stoodBack {
			stoodBack, wait = true, standBack+rand.N(standBack)
			continue
		}
		select {
		case l.places <- struct{}{}:
		case <-l.life.Context().Done():
			return
		}
		_, err := l.reap(l.life.Context(), g)
		<-l.places
		if err == nil || errors.Is(err, errAlive) {
			if l.unreaped.Ends() {
				l.cfg.Logger.Info("leases are reaped again")
			}
			return
		}
		if !l.life.Over() && l.unreaped.Begins() {
			l.cfg.Logger.Warn("a lease could not be reaped and is tried again", zap.Int64("lease", g.id), zap.Error(err))
		}
		wait = reapRetry + rand.N(reapRetry)
	}
}
