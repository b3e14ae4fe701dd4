// Package lifetime ends what was started: goroutines, their contexts and their waits.
//
// A Life begins with New and ends once, with a cause. Its invariants:
//
//   - what Spawn starts, Wait waits for: once the life has ended, nothing more starts, so Wait may follow End at once;
//   - every context that was made from a life ends with it, and context.Cause names the life's cause;
//   - nothing here waits without a context.
package lifetime

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrClosed is the cause of a life that its owner has ended.
var ErrClosed = errors.New("metaetcd: client is closed")

// Life is the life of something that starts goroutines. It is safe for concurrent use.
type Life struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu sync.Mutex // of Spawn against End: a WaitGroup must not grow while it is waited for
	wg sync.WaitGroup
}

// New begins a life. It ends when ctx ends, too, with its cause; who gives such a context calls End nevertheless, before Wait.
func New(ctx context.Context) *Life {
	l := &Life{}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	return l
}

// Context ends with the life.
func (l *Life) Context() context.Context { return l.ctx }

// Over reports whether the life has ended.
func (l *Life) Over() bool { return l.ctx.Err() != nil }

// End ends the life. Only the first cause counts; nil is context.Canceled.
func (l *Life) End(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel(cause)
}

// Wait returns when all that was spawned has returned. It must be called after End, and not by what was spawned.
func (l *Life) Wait() { l.wg.Wait() }

// Spawn runs fn beside its caller. False: the life has ended, and fn does not run.
func (l *Life) Spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Over() {
		return false
	}
	l.wg.Go(fn)
	return true
}

// Within is a caller's context that ends with the life, too. The function that it returns frees it, and must be called.
func (l *Life) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Lingering is a context for what should be finished though the life ends, if it does not take long: it ends after timeout, and
// no later than linger after the life has ended. The function that it returns frees it, and must be called.
func (l *Life) Lingering(timeout, linger time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(l.ctx))
	limit := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
	stop := context.AfterFunc(l.ctx, func() {
		last := time.AfterFunc(linger, func() { cancel(context.Cause(l.ctx)) })
		context.AfterFunc(ctx, func() { last.Stop() })
	})
	return ctx, func() {
		stop()
		limit.Stop()
		cancel(nil)
	}
}

// Pause waits. It returns ctx's cause if ctx ends first, and nil else. Nothing is left of it when it returns.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Wake leaves a token in a channel with room for one, unless there is one already. Who takes it looks at everything that may
// be new, so one is enough. It never waits.
func Wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Cause is why the life has ended; nil while it goes on.
func (l *Life) Cause() error { return context.Cause(l.ctx) }
