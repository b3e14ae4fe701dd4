package mergedlog

import (
	"container/heap"
	"context"
	"math"
)

// forever is above every revision.
const forever = math.MaxInt64

// waiter waits for a revision. done is closed when the revision is reached, or the log has failed.
type waiter struct {
	rev  int64
	at   int // index in the heap; -1: not there any more
	done chan struct{}
}

// waiters is a heap of waiters, lowest revision first.
type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].rev < w[j].rev }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].at, w[j].at = i, j
}

// Push and Pop implement heap.Interface.
func (w *waiters) Push(x any) {
	x.(*waiter).at = len(*w)
	*w = append(*w, x.(*waiter))
}

// Pop implements heap.Interface.
func (w *waiters) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	x.at = -1
	return x
}

func (w *waiters) wake(rev int64) {
	for len(*w) > 0 && (*w)[0].rev <= rev {
		close(heap.Pop(w).(*waiter).done)
	}
}

// WaitClosed waits until W >= rev. It fails with the context's error or the log's.
func (l *Log) WaitClosed(ctx context.Context, rev int64) error {
	if l.closed.Load() >= rev {
		return nil
	}
	return l.wait(ctx, &l.waiters, rev, l.closed.Load)
}

// WaitReached waits until the member's stream has delivered everything up to the member revision rev. It fails
// with the context's error or the log's.
func (l *Log) WaitReached(ctx context.Context, member int, rev int64) error {
	m := l.members[member]
	return l.wait(ctx, &m.waiters, rev, func() int64 { return m.Rev })
}

// wait waits in the queue until present, which is called with mu held, returns at least rev.
func (l *Log) wait(ctx context.Context, queue *waiters, rev int64, present func() int64) error {
	l.mu.Lock()
	if present() >= rev {
		l.mu.Unlock()
		return nil
	}
	if l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	w := &waiter{rev: rev, done: make(chan struct{})}
	heap.Push(queue, w)
	l.mu.Unlock()

	var err error
	select {
	case <-w.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.at >= 0 {
		heap.Remove(queue, w.at)
	}
	switch {
	case present() >= rev:
		return nil
	case l.err != nil:
		return l.err
	}
	return err
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Advanced returns a channel that is closed when W moves next, or the log fails. To miss nothing, get the channel
// before reading W.
func (l *Log) Advanced() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return closedChan
	}
	if l.advanced == nil {
		l.advanced = make(chan struct{})
	}
	return l.advanced
}

func (l *Log) broadcastLocked() {
	if l.advanced != nil {
		close(l.advanced)
		l.advanced = nil
	}
}
