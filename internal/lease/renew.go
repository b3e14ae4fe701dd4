package lease

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
)

// Renew gives a lease its full TTL again, in seconds, and tells done: 0 if there is none, and then none of its keys is left. It
// does not wait. done is called once, from a goroutine that serves others as well, unless the lessor is closed before.
func (l *Lessor) Renew(id int64, done func(ttl int64)) {
	rec, ok := l.book.Living(id)
	if !ok {
		l.renewUnknown(id, done)
		return
	}
	l.renew.add(rec.Grant, func(ttl int64) {
		if ttl > 0 {
			done(ttl)
			return
		}
		l.renewUnknown(id, done)
	})
}

// renewUnknown renews a lease of which this process knows no timer: the coordinator may have lost it, the book may be
// behind, or it has ended. All who ask meanwhile share the answer.
func (l *Lessor) renewUnknown(id int64, done func(ttl int64)) {
	l.spawn(func() {
		ttl, err, _ := l.unknown.Do(strconv.FormatInt(id, 16), func() (any, error) { return l.renewByName(l.ctx, id) })
		if err == nil {
			done(ttl.(int64))
		} else if l.ctx.Err() == nil {
			l.cfg.Logger.Warn("a lease could not be renewed", zap.Int64("lease", id), zap.Error(err))
		}
	})
}

func (l *Lessor) renewByName(ctx context.Context, id int64) (int64, error) {
	for {
		rec, lives, err := l.sentinel(ctx, id)
		if err != nil {
			return 0, err
		}
		if !lives {
			return 0, l.clear(ctx, id)
		}
		if ttl, err := l.renew.once(ctx, rec.Grant); err != nil || ttl > 0 {
			return ttl, err
		}
	}
}

// keeper renews timers over one stream to the coordinator, which is opened with the first of them. Safe for concurrent use.
//
// The coordinator answers in order. Who comes while a renewal of the same timer waits to be sent shares it.
type keeper struct {
	lease pb.LeaseClient
	ctx   context.Context
	spawn func(func()) bool
	log   *zap.Logger
	woken chan struct{}

	mu      sync.Mutex
	running bool
	queue   []*renewal // to be sent
	waiting map[int64]*renewal
	sent    []*renewal // to be answered
}

type renewal struct {
	grant int64
	done  []func(ttl int64)
}

// renewTimeout is how long the coordinator may take for an answer before the stream is taken for dead. It waits itself for a
// lease that has run out to be revoked.
const renewTimeout = 5 * time.Second

// add renews a timer; done must be fast.
func (k *keeper) add(g int64, done func(ttl int64)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.running {
		k.running = true
		k.spawn(k.run)
	}
	r := k.waiting[g]
	if r == nil {
		r = &renewal{grant: g}
		k.waiting[g] = r
		k.queue = append(k.queue, r)
	}
	r.done = append(r.done, done)
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// once renews a timer and returns its TTL, 0 if there is none.
func (k *keeper) once(ctx context.Context, g int64) (int64, error) {
	answer := make(chan int64, 1)
	k.add(g, func(ttl int64) { answer <- ttl })
	select {
	case ttl := <-answer:
		return ttl, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run serves the queue until the keeper's context ends.
func (k *keeper) run() {
	var retry backoff.Backoff
	for k.ctx.Err() == nil {
		answered, err := k.serve()
		if k.ctx.Err() != nil {
			return
		}
		if answered {
			retry.Reset()
		}
		k.log.Info("the stream of keep-alives broke off and is opened again", zap.Error(err))
		k.mu.Lock()
		k.queue, k.sent = append(k.sent, k.queue...), nil
		k.mu.Unlock()
		retry.Wait(k.ctx)
	}
}

// serve sends and receives on one stream until it fails, and reports whether there was an answer at all.
func (k *keeper) serve() (answered bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(k.ctx))
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	stream, err := k.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return false, err
	}
	overdue := time.AfterFunc(renewTimeout, cancel)
	overdue.Stop()
	defer overdue.Stop()
	sender.Go(func() {
		for batch := k.take(ctx, overdue); batch != nil; batch = k.take(ctx, overdue) {
			for _, r := range batch {
				if stream.Send(&pb.LeaseKeepAliveRequest{ID: r.grant}) != nil {
					return // Recv says why
				}
			}
		}
	})
	for {
		resp, err := stream.Recv()
		if err != nil {
			return answered, err
		}
		r := k.answer(resp.ID, overdue)
		if r == nil {
			return answered, fmt.Errorf("metaetcd: the coordinator renewed lease %x, which was not asked for", resp.ID)
		}
		answered = true
		for _, done := range r.done {
			done(resp.TTL)
		}
	}
}

// take waits for renewals to send. Nil: ctx has ended.
func (k *keeper) take(ctx context.Context, overdue *time.Timer) []*renewal {
	for {
		k.mu.Lock()
		batch := k.queue
		if len(batch) > 0 {
			if len(k.sent) == 0 {
				overdue.Reset(renewTimeout)
			}
			k.queue, k.sent = nil, append(k.sent, batch...)
			clear(k.waiting)
		}
		k.mu.Unlock()
		if len(batch) > 0 {
			return batch
		}
		select {
		case <-k.woken:
		case <-ctx.Done():
			return nil
		}
	}
}

// answer takes the renewal that has waited longest for its answer. Nil: that is of another timer.
func (k *keeper) answer(g int64, overdue *time.Timer) *renewal {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sent) == 0 || k.sent[0].grant != g {
		return nil
	}
	r := k.sent[0]
	k.sent = k.sent[1:]
	overdue.Stop()
	if len(k.sent) > 0 {
		overdue.Reset(renewTimeout)
	}
	return r
}
