// Package share lets calls share requests: one costs client and server far more than what a call adds to it.
package share

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// Config says what calls of one kind are.
type Config[Q, A any] struct {
	Life    *lifetime.Life
	Timeout time.Duration // of a request that is shared
	Lone    int           // requests that may be out at once; while as many are, calls wait and then go together
	Most    int           // calls in one request

	// Size is that of an answer; nil: they are small. How large answers are is known only when they are there: so a request is for as many
	// calls as the one before could have been to bring Bytes, and for at most twice as many as that was.
	Size  func(a A) int
	Bytes int

	// Alone makes a request for one call. Together makes one for several and returns their answers, in order. An error of its is nobody's:
	// each call is made alone then.
	Alone    func(ctx context.Context, q Q) (A, error)
	Together func(ctx context.Context, qs []Q) ([]A, error)
}

// Calls are calls of one kind. They are safe for concurrent use.
//
// Every call is answered, by the request that it waited for or by the end of the life; what waits is sent in the order of the calls;
// at most Lone requests are out. One call that fails fails no other.
type Calls[Q, A any] struct {
	cfg Config[Q, A]

	mu    sync.Mutex
	room  int           // calls of the next request; see Config.Size
	out   int           // requests
	queue []*call[Q, A] // waits for one of them to come back; empty while out < Lone
}

type call[Q, A any] struct {
	q    Q
	a    A
	err  error
	done chan struct{}
}

// New returns calls of which none is under way.
func New[Q, A any](cfg Config[Q, A]) *Calls[Q, A] { return &Calls[Q, A]{cfg: cfg, room: cfg.Most} }

// Do makes a call. When ctx ends first, what was sent may still be done; what waits is not sent any more.
func (c *Calls[Q, A]) Do(ctx context.Context, q Q) (A, error) {
	c.mu.Lock()
	if c.out < c.cfg.Lone {
		c.out++
		c.mu.Unlock()
		defer c.next()
		return c.cfg.Alone(ctx, q)
	}
	x := &call[Q, A]{q: q, done: make(chan struct{})}
	c.queue = append(c.queue, x)
	c.mu.Unlock()
	select {
	case <-x.done:
		return x.a, x.err
	case <-ctx.Done():
		c.drop(x)
		var none A
		return none, ctx.Err()
	}
}

// drop takes a call whose caller has left out of the queue, if it is there.
func (c *Calls[Q, A]) drop(x *call[Q, A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = slices.DeleteFunc(c.queue, func(y *call[Q, A]) bool { return x == y })
}

// next sends what waits, after a request came back.
func (c *Calls[Q, A]) next() {
	c.mu.Lock()
	n := min(len(c.queue), c.room)
	if n == 0 {
		c.out--
		c.mu.Unlock()
		return
	}
	batch := append([]*call[Q, A](nil), c.queue[:n]...)
	c.queue = append(c.queue[:0], c.queue[n:]...)
	c.mu.Unlock()
	if !c.cfg.Life.Spawn(func() {
		defer c.next()
		c.send(batch)
	}) {
		for _, x := range batch {
			x.err = c.cfg.Life.Cause()
			close(x.done)
		}
		c.next()
	}
}

func (c *Calls[Q, A]) send(batch []*call[Q, A]) {
	ctx, cancel := context.WithTimeout(c.cfg.Life.Context(), c.cfg.Timeout)
	defer cancel()
	if len(batch) > 1 && c.together(ctx, batch) {
		return
	}
	for _, x := range batch {
		x.a, x.err = c.cfg.Alone(ctx, x.q)
		close(x.done)
	}
}

func (c *Calls[Q, A]) together(ctx context.Context, batch []*call[Q, A]) bool {
	qs := make([]Q, len(batch))
	for i, x := range batch {
		qs[i] = x.q
	}
	as, err := c.cfg.Together(ctx, qs)
	if err != nil {
		return false
	}
	c.brought(as)
	for i, x := range batch {
		x.a = as[i]
		close(x.done)
	}
	return true
}

// leastShared is the least that a request is for where answers are large: one alone would not tell.
const leastShared = 2

// brought learns how large the answers of a request were.
func (c *Calls[Q, A]) brought(as []A) {
	if c.cfg.Size == nil {
		return
	}
	bytes := 0
	for _, a := range as {
		bytes += c.cfg.Size(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = min(max(len(as)*c.cfg.Bytes/max(bytes, 1), leastShared), 2*max(len(as), c.room), c.cfg.Most)
}
