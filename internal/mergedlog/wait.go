package mergedlog

import (
	"container/heap"
	"context"
	"math"

	"github.com/metaetcd/metaetcd/internal/record"
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

// WaitReached waits until the member's stream has delivered everything up to the native revision rev. It fails
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

// OutcomeKind says what became of a stamp that was sent.
type OutcomeKind uint8

// The kinds of outcomes.
const (
	Landed  OutcomeKind = iota + 1 // its write took effect, once
	Refused                        // it reached the member and changed nothing
	Dead                           // it never reached the member, and never will
)

// Outcome is what became of a stamp that was sent.
type Outcome struct {
	Kind   OutcomeKind
	Reason record.Reason // of a refusal; of a landing NoOp, Exclusive, or 0
	Rev    int64         // native revision of the mark; of the dead, where the stream stood
}

// doubt names a stamp that was sent to a member. Its number alone would not do: after the loss of the
// coordinator, a number that never landed is handed out again.
type doubt struct{ epoch, stamp int64 }

// verdict is what is known of a doubt.
type verdict struct {
	Outcome               // Kind 0: no mark was seen
	changed chan struct{} // closed when that may have changed; nil: nobody waits
}

// Track makes the log remember what becomes of stamps. It comes before they are sent to the member.
func (l *Log) Track(member int, epoch int64, stamps ...int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range stamps {
		l.members[member].doubts[doubt{epoch, s}] = verdict{}
	}
}

// Untrack forgets stamps.
func (l *Log) Untrack(member int, epoch int64, stamps ...int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members[member]
	for _, s := range stamps {
		d := doubt{epoch, s}
		if v := m.doubts[d]; v.changed != nil {
			m.wakeDoubts(func(o doubt) bool { return o == d })
		}
		delete(m.doubts, d)
	}
}

// Outcome waits until it is certain what became of a tracked stamp: its mark shows up in the member's stream, in
// its epoch; or, before that, a fence at or above it or a newer epoch does, and it is dead. It fails with the
// context's error, the log's, or ErrUntracked.
func (l *Log) Outcome(ctx context.Context, member int, epoch, stamp int64) (Outcome, error) {
	m, d := l.members[member], doubt{epoch, stamp}
	for {
		o, changed, err := l.outcome(m, d)
		if changed == nil {
			return o, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
	}
}

// Seen returns what the member's stream has shown of a tracked stamp so far; Kind 0: nothing that decides. It fails with
// ErrUntracked.
func (l *Log) Seen(member int, epoch, stamp int64) (Outcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, d := l.members[member], doubt{epoch, stamp}
	v, ok := m.doubts[d]
	switch {
	case !ok:
		return Outcome{}, ErrUntracked
	case v.Kind == 0 && m.dead(d):
		return Outcome{Kind: Dead, Rev: m.Rev}, nil
	}
	return v.Outcome, nil
}

// outcome returns what is certain, or what to wait for.
func (l *Log) outcome(m *member, d doubt) (Outcome, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := m.doubts[d]
	switch {
	case !ok:
		return Outcome{}, nil, ErrUntracked
	case v.Kind != 0:
		return v.Outcome, nil, nil
	case m.dead(d):
		return Outcome{Kind: Dead, Rev: m.Rev}, nil, nil
	case l.err != nil:
		return Outcome{}, nil, l.err
	}
	if v.changed == nil {
		v.changed = make(chan struct{})
		m.doubts[d] = v
	}
	return Outcome{}, v.changed, nil
}

// dead says that a stamp that has left no mark so far will never do.
func (m *member) dead(d doubt) bool { return m.Epoch > d.epoch || m.Fence >= d.stamp }

// settle takes a mark at native revision rev as the outcome of its stamp.
func (m *member) settle(mk mark, rev int64) {
	if len(m.doubts) == 0 {
		return
	}
	d := doubt{m.Epoch, mk.stamp}
	v, ok := m.doubts[d]
	if !ok || v.Kind != 0 {
		return
	}
	v.Outcome = Outcome{Kind: Refused, Reason: mk.reason, Rev: rev}
	if mk.landed() {
		v.Kind = Landed
	}
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
	m.doubts[d] = v
}

// wakeDoubts makes the callers of Outcome look again.
func (m *member) wakeDoubts(which func(doubt) bool) {
	for d, v := range m.doubts {
		if v.changed != nil && which(d) {
			close(v.changed)
			m.doubts[d] = verdict{Outcome: v.Outcome}
		}
	}
}
