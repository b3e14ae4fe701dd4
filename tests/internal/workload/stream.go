package workload

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// progressEvery is how often a watch is asked for its progress.
const progressEvery = 100 * time.Millisecond

// watching is a stream that is being recorded.
type watching struct {
	c      *Client
	s      *Stream
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	reached  int64
	advanced chan struct{} // closed when reached grows
}

// watch opens a stream and records it.
func (c *Client) watch(s *Stream) *watching {
	w := &watching{c: c, s: s, reached: s.From - 1, advanced: make(chan struct{})}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(c.ctx)
	responses := c.store.Watch(ctx, s.Prefix, clientv3.WithPrefix(), clientv3.WithRev(s.From), clientv3.WithPrevKV(), clientv3.WithProgressNotify())
	c.run.mu.Lock()
	c.run.h.Streams = append(c.run.h.Streams, s)
	c.run.mu.Unlock()
	w.done.Go(func() { w.record(ctx, responses) })
	if s.whole() {
		w.done.Go(func() { w.ask(ctx) })
	}
	return w
}

func (w *watching) record(ctx context.Context, responses clientv3.WatchChan) {
	for resp := range responses {
		if err := resp.Err(); err != nil && ctx.Err() == nil {
			w.c.run.fault(ErrReliable, "%s: a watch ended: %v", w.c.Name, err)
		}
		if resp.Canceled || resp.Created {
			continue
		}
		r := Response{Rev: resp.Header.Revision, At: time.Now(), Events: resp.Events}
		w.s.Responses = append(w.s.Responses, r)
		w.c.run.tell(r.last())
		w.mu.Lock()
		if r.last() > w.reached {
			w.reached = r.last()
			close(w.advanced)
			w.advanced = make(chan struct{})
		}
		w.mu.Unlock()
	}
	if ctx.Err() == nil {
		w.c.run.fault(ErrReliable, "%s: a watch was closed", w.c.Name)
	}
}

// ask asks for progress, which is announced to all watches of the client. What is announced is checked like events.
func (w *watching) ask(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := w.c.store.RequestProgress(ctx); err != nil && ctx.Err() == nil {
				w.c.run.fault(ErrBookmarkable, "%s: a request for progress: %v", w.c.Name, err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// await waits until the stream has delivered everything up to a revision.
func (w *watching) await(ctx context.Context, rev int64) {
	for {
		w.mu.Lock()
		reached, advanced := w.reached, w.advanced
		w.mu.Unlock()
		if reached >= rev {
			return
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			w.c.run.fault(ErrReliable, "%s: a watch from %d did not get from %d to %d", w.c.Name, w.s.From, reached, rev)
			return
		}
	}
}

// giveUp ends the stream before the end of the run, and returns how far it got.
func (w *watching) giveUp() int64 {
	w.s.Lost = true
	w.stop()
	return w.s.reached()
}

func (w *watching) stop() {
	w.cancel()
	w.done.Wait()
}
