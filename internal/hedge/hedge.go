// Package hedge sends a request that is late once more, beside the first: another server may answer where one hangs. It is for
// requests that do no harm when they are done twice.
package hedge

import (
	"context"
	"sync"
	"time"
)

// Pace is how long requests of a kind take at present, from which follows when one is late. The zero value is ready to use. It is
// safe for concurrent use.
type Pace struct {
	mu        sync.Mutex
	mean, dev time.Duration // smoothed, as TCP does for its retransmissions (RFC 6298)
}

const (
	// soonest is the least time after which a request counts as late.
	soonest = 50 * time.Millisecond
	// unknown is that time before any request was answered.
	unknown = 250 * time.Millisecond
	// latest bounds it.
	latest = 2 * time.Second
)

// Note takes the time that a request took until its answer.
func (p *Pace) Note(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mean == 0 {
		p.mean, p.dev = max(took, 1), took/2
		return
	}
	off := took - p.mean
	p.mean = max(p.mean+off/8, 1)
	p.dev += (max(off, -off) - p.dev) / 4
}

// Late is the time after which a request counts as late.
func (p *Pace) Late() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mean == 0 {
		return unknown
	}
	return min(max(2*p.mean+4*p.dev, soonest), latest)
}

// most bounds the attempts of one call that are out at once.
const most = 8

// Request is a request that may be sent several times.
type Request[T any] struct {
	Pace *Pace
	Send func(ctx context.Context) (T, error)
	// Passing reports whether an error may be that of one attempt alone: another attempt that is still out may have an answer.
	Passing func(err error) bool
	// Strays keeps the attempts that are out when another one has answered, and Stray gets what they bring. Without Strays
	// they are cancelled.
	Strays *Strays
	Stray  func(answer T)
	Go     func(f func()) // runs an attempt; nil: as a goroutine
}

// Do sends the request, and sends it again beside that each time that it is late: after a time that grows by half from attempt to
// attempt, so that a server that is slow is not sent much more. The first answer counts, and the first error that is not passing;
// a passing one counts when nothing else is out. When ctx ends, so do all attempts.
func (r Request[T]) Do(ctx context.Context) (T, error) {
	c := &call[T]{Request: r, answers: make(chan answer[T], most)}
	defer c.leave()
	wait := r.Pace.Late()
	late := time.NewTimer(wait)
	defer late.Stop()
	c.start(ctx)
	for {
		select {
		case a := <-c.answers:
			c.out--
			if a.err == nil {
				r.Pace.Note(a.took) // strays do not count: a server that answers late does not make others late
			}
			if a.err == nil || !r.Passing(a.err) || c.out == 0 {
				return a.v, a.err
			}
		case <-late.C:
			wait += wait / 2
			late.Reset(wait)
			if c.out < most {
				c.start(ctx)
			}
		case <-ctx.Done():
			c.Strays = nil
			var none T
			return none, ctx.Err()
		}
	}
}

type answer[T any] struct {
	v    T
	err  error
	took time.Duration
}

// call is a Request under way.
type call[T any] struct {
	Request[T]
	answers chan answer[T] // has room for all that are out
	out     int
	cancels []context.CancelFunc

	mu   sync.Mutex
	over bool // answers are not read any more
}

func (c *call[T]) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	c.cancels = append(c.cancels, cancel)
	c.out++
	run := c.Go
	if run == nil {
		run = func(f func()) { go f() }
	}
	run(func() {
		defer cancel()
		began := time.Now()
		v, err := c.Send(ctx)
		c.mu.Lock()
		over := c.over
		if !over {
			c.answers <- answer[T]{v, err, time.Since(began)}
		}
		c.mu.Unlock()
		if over && err == nil && c.Stray != nil {
			c.Stray(v)
		}
	})
}

// leave makes strays of the attempts that are out, or cancels them.
func (c *call[T]) leave() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	for len(c.answers) > 0 {
		if a := <-c.answers; a.err == nil && c.Stray != nil {
			c.Stray(a.v)
		}
	}
	if c.Strays != nil && c.out > 0 {
		c.Strays.add(c.cancels...)
		return
	}
	for _, cancel := range c.cancels {
		cancel()
	}
}

// Strays are attempts that are out although their calls have been answered. When there are too many the oldest are cancelled. The
// zero value is ready to use; it is safe for concurrent use.
type Strays struct {
	mu      sync.Mutex
	cancels []context.CancelFunc // also of attempts that have ended since
}

func (s *Strays) add(cancels ...context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancels = append(s.cancels, cancels...)
	for ; len(s.cancels) > most; s.cancels = s.cancels[1:] {
		s.cancels[0]()
	}
}
