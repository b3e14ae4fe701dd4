package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/lifetime"
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
	l.life.Spawn(func() {
		ttl, err, _ := l.unknown.Do(strconv.FormatInt(id, 16), func() (any, error) { return l.renewByName(l.life.Context(), id) })
		switch {
		case err == nil:
			if l.unrenewed.Ends() {
				l.cfg.Logger.Info("leases are renewed again")
			}
			done(ttl.(int64))
		case !l.life.Over() && l.unrenewed.Begins():
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

// renewer renews timers over one stream to the coordinator, which is opened with the first of them. Safe for concurrent use.
//
// The coordinator answers in order, and renews a timer that has run out when it has revoked it, which takes long when thousands have run out at
// once. So only timers that cannot have run out share the stream; any other is renewed on a stream of its own. Who comes while a
// renewal of the same timer waits to be sent shares it; and one is sent when the last is answered, or never will be. So
// however long the coordinator is silent, and however often its clients ask, each timer is renewed once when it is back.
type renewer struct {
	lease pb.LeaseClient
	life  *lifetime.Life
	log   *zap.Logger
	woken chan struct{}

	outage backoff.Outage // of the shared stream

	mu      sync.Mutex
	running bool
	queue   []*renewal          // to be sent; none of a timer that is out
	waiting map[int64]*renewal  // to be sent, in the queue or when an earlier one of the same timer is answered
	out     map[int64]struct{}  // timers with a renewal that is to be answered
	sent    []*renewal          // to be answered on the shared stream
	alone   int                 // how many are renewed on streams of their own
	runs    map[int64]time.Time // timers that run until then, at least
}

type renewal struct {
	grant int64
	at    time.Time // when it was sent on the shared stream
	done  []func(ttl int64)
}

const (
	// renewTimeout is how long the coordinator may take for an answer before the stream is taken for dead.
	renewTimeout = 5 * time.Second
	// aloneAtOnce bounds the streams for single timers.
	aloneAtOnce = 1024
)

func newRenewer(life *lifetime.Life, cfg Config) *renewer {
	return &renewer{
		lease: cfg.Lease, life: life, log: cfg.Logger, woken: make(chan struct{}, 1),
		waiting: map[int64]*renewal{}, out: map[int64]struct{}{}, runs: map[int64]time.Time{},
	}
}

// add renews a timer; done must be fast.
func (rn *renewer) add(g int64, done func(ttl int64)) {
	rn.mu.Lock()
	defer rn.mu.Unlock()
	if !rn.running {
		rn.running = true
		rn.life.Spawn(rn.run)
	}
	r := rn.waiting[g]
	if r == nil {
		r = &renewal{grant: g}
		rn.waiting[g] = r
		if _, out := rn.out[g]; !out {
			rn.queue = append(rn.queue, r)
			lifetime.Wake(rn.woken)
		}
	}
	r.done = append(r.done, done)
}

// answeredLocked lets the next renewal of a timer be sent.
func (rn *renewer) answeredLocked(g int64) {
	delete(rn.out, g)
	if r := rn.waiting[g]; r != nil {
		rn.queue = append(rn.queue, r)
		lifetime.Wake(rn.woken)
	}
}

// joinLocked adds those to a renewal that is about to be sent again who wait for the next one: they came before it, too.
func (rn *renewer) joinLocked(r *renewal) {
	if next := rn.waiting[r.grant]; next != nil {
		r.done = append(r.done, next.done...)
		delete(rn.waiting, r.grant)
	}
}

// once renews a timer and returns its TTL, 0 if there is none.
func (rn *renewer) once(ctx context.Context, g int64) (int64, error) {
	answer := make(chan int64, 1)
	rn.add(g, func(ttl int64) { answer <- ttl })
	select {
	case ttl := <-answer:
		return ttl, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// started notes that a timer was started or renewed, at the earliest at a time; with a TTL of 0 that there is none.
func (rn *renewer) started(g int64, at time.Time, ttl int64) {
	rn.mu.Lock()
	defer rn.mu.Unlock()
	rn.startedLocked(g, at, ttl)
}

func (rn *renewer) startedLocked(g int64, at time.Time, ttl int64) {
	if ttl <= 0 {
		delete(rn.runs, g)
		return
	}
	rn.runs[g] = at.Add(time.Duration(min(ttl, maxTTL)) * time.Second / 3 * 2) // the rest is for the way
}

// forget drops what is of no use any more.
func (rn *renewer) forget() {
	rn.mu.Lock()
	defer rn.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(rn.runs, func(_ int64, until time.Time) bool { return until.Before(now) })
}

// run serves the queue until the renewer's context ends.
func (rn *renewer) run() {
	var retry backoff.Backoff
	for !rn.life.Over() {
		answered, err := rn.serve()
		if rn.life.Over() {
			return
		}
		if answered {
			retry.Reset()
		}
		if rn.outage.Begins() {
			rn.log.Warn("the stream of keep-alives broke off; trying again", zap.Error(err))
		}
		rn.mu.Lock()
		if len(rn.sent) > 0 {
			delete(rn.runs, rn.sent[0].grant) // it may be the one that held up the others
		}
		for _, r := range rn.sent {
			rn.joinLocked(r)
			delete(rn.out, r.grant)
			rn.waiting[r.grant] = r
		}
		rn.queue, rn.sent = append(rn.sent, rn.queue...), nil
		rn.mu.Unlock()
		retry.Wait(rn.life.Context())
	}
}

// serve sends and receives on one stream until it fails, and reports whether there was an answer at all.
func (rn *renewer) serve() (answered bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(rn.life.Context()))
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	stream, err := rn.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return false, err
	}
	overdue := time.AfterFunc(renewTimeout, cancel)
	overdue.Stop()
	defer overdue.Stop()
	sender.Go(func() {
		for batch := rn.take(ctx, overdue); batch != nil; batch = rn.take(ctx, overdue) {
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
		r := rn.answer(resp, overdue)
		if r == nil {
			return answered, errNotAsked(resp)
		}
		if answered = true; rn.outage.Ends() {
			rn.log.Info("keep-alives are answered again")
		}
		for _, done := range r.done {
			done(resp.TTL)
		}
	}
}

func errNotAsked(resp *pb.LeaseKeepAliveResponse) error {
	return fmt.Errorf("metaetcd: the coordinator renewed lease %x, which was not asked for", resp.ID)
}

// take waits for renewals to send on the shared stream. Nil: ctx has ended.
func (rn *renewer) take(ctx context.Context, overdue *time.Timer) []*renewal {
	for {
		rn.mu.Lock()
		batch := rn.nextLocked() //nolint:contextcheck // what it starts lives as long as the renewer
		if len(batch) > 0 {
			if len(rn.sent) == 0 {
				overdue.Reset(renewTimeout)
			}
			rn.sent = append(rn.sent, batch...)
		}
		rn.mu.Unlock()
		if len(batch) > 0 {
			return batch
		}
		select {
		case <-rn.woken:
		case <-ctx.Done():
			return nil
		}
	}
}

// nextLocked empties the queue, but for renewals that have to wait for a stream of their own. It returns those for the shared
// stream.
func (rn *renewer) nextLocked() (batch []*renewal) {
	now, left := time.Now(), rn.queue[:0]
	for _, r := range rn.queue {
		switch {
		case now.Before(rn.runs[r.grant]):
			r.at = now
			batch = append(batch, r)
		case rn.alone == aloneAtOnce:
			left = append(left, r)
			continue
		default:
			rn.alone++
			rn.life.Spawn(func() { rn.renewAlone(r) })
		}
		delete(rn.waiting, r.grant)
		rn.out[r.grant] = struct{}{}
	}
	clear(rn.queue[len(left):])
	rn.queue = left
	return batch
}

// renewAlone renews a timer on a stream of its own, until it is answered or the renewer's context ends.
func (rn *renewer) renewAlone(r *renewal) {
	for retry := (backoff.Backoff{}); ; {
		rn.mu.Lock()
		rn.joinLocked(r)
		rn.mu.Unlock()
		at := time.Now()
		ttl, err := rn.ask(r.grant)
		if err == nil {
			rn.mu.Lock()
			rn.alone--
			rn.startedLocked(r.grant, at, ttl)
			rn.answeredLocked(r.grant)
			rn.mu.Unlock()
			lifetime.Wake(rn.woken) // another one may have waited for the place
			for _, done := range r.done {
				done(ttl)
			}
			return
		}
		rn.log.Debug("a keep-alive has no answer and is sent again", zap.Error(err))
		if !retry.Wait(rn.life.Context()) {
			return
		}
	}
}

func (rn *renewer) ask(g int64) (ttl int64, err error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(rn.life.Context()), renewTimeout)
	defer cancel()
	stream, err := rn.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: g}); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
		return 0, err
	}
	resp, err := stream.Recv()
	switch {
	case err != nil:
		return 0, err
	case resp.ID != g:
		return 0, errNotAsked(resp)
	}
	return resp.TTL, nil
}

// answer takes the renewal that has waited longest for its answer. Nil: that is of another timer.
func (rn *renewer) answer(resp *pb.LeaseKeepAliveResponse, overdue *time.Timer) *renewal {
	rn.mu.Lock()
	defer rn.mu.Unlock()
	if len(rn.sent) == 0 || rn.sent[0].grant != resp.ID {
		return nil
	}
	r := rn.sent[0]
	rn.sent = rn.sent[1:]
	rn.startedLocked(r.grant, r.at, resp.TTL)
	rn.answeredLocked(r.grant)
	overdue.Stop()
	if len(rn.sent) > 0 {
		overdue.Reset(renewTimeout)
	}
	return r
}
