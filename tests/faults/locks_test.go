package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// shortest is how long locks are let alone at least.
	shortest = 100 * time.Millisecond
	// jitter keeps processes from finishing the same transaction at once.
	jitter = 100 * time.Millisecond
	// outlived is how much longer than the grace a lock may live whose writer has gone.
	outlived = time.Second
	// inTurn is how many requests, one after the other, it may take to finish a transaction, those that it queues behind included:
	// processes die over a dozen at a time. They are granted the time that they take on a machine that is slow or busy.
	inTurn = 20
)

// witness watches the locks on the members, around everything that is broken and without metaetcd.
type witness struct {
	t       *testing.T
	bench   *bench
	members []*metaetcdtest.Node
	direct  []*clientv3.Client
	stop    func()
	machine func() [][]workload.Span // requests that have nothing to do with metaetcd

	mu     sync.Mutex
	held   map[string]*hold // by member and record
	done   []hold
	grace  time.Duration // the longest that any process had at any time
	excuse []workload.Span
}

// hold is the life of one lock.
type hold struct {
	where string
	by    string // the record's value
	workload.Span
}

// watchLocks begins to watch.
func (b *bench) watchLocks() *witness {
	b.t.Helper()
	w := &witness{t: b.t, bench: b, members: b.cluster.Members, held: map[string]*hold{}, machine: b.readDirectly()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	b.t.Cleanup(w.stop)
	for _, m := range w.members {
		cli := m.DirectClient(b.t)
		w.direct = append(w.direct, cli)
		now, err := cli.Get(ctx, record.KeyLock)
		require.NoError(b.t, err)
		_, end := record.SlotRange()
		changes := cli.Watch(ctx, record.KeyLock, clientv3.WithRange(string(end)), clientv3.WithRev(now.Header.Revision+1))
		wg.Go(func() { w.follow(m.Name(), changes) })
	}
	processes := slices.Clone(b.processes)
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, p := range processes {
				g := p.grace()
				w.mu.Lock()
				w.grace = max(w.grace, g)
				w.mu.Unlock()
			}
			select {
			case <-time.After(2 * pace):
			case <-ctx.Done():
			}
		}
	})
	return w
}

// follow notes what a member's records say of locks.
func (w *witness) follow(member string, changes clientv3.WatchChan) {
	for resp := range changes {
		now := time.Now()
		w.mu.Lock()
		for _, ev := range resp.Events {
			if k := record.KindOf(ev.Kv.Key); k == record.Lock || k == record.Slot {
				w.change(fmt.Sprintf("%s %q", member, ev.Kv.Key), string(ev.Kv.Value), now)
			}
		}
		w.mu.Unlock()
	}
}

func (w *witness) change(where, value string, now time.Time) {
	h := w.held[where]
	if h != nil && h.by != value {
		h.End = now
		w.done = append(w.done, *h)
		delete(w.held, where)
		h = nil
	}
	if h == nil && isLocked([]byte(value)) {
		w.held[where] = &hold{where: where, by: value, Span: workload.Span{Begin: now}}
	}
}

// while runs what keeps locks from being given back: that time does not count.
func (w *witness) while(away func()) {
	s := workload.Span{Begin: time.Now()}
	away()
	s.End = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excuse = append(w.excuse, s)
}

// age is how long a lock lived while nothing was away.
func (w *witness) age(h hold) time.Duration {
	age := h.Took()
	for _, s := range w.excuse {
		begin, end := s.Begin, s.End
		if begin.Before(h.Begin) {
			begin = h.Begin
		}
		if end.After(h.End) {
			end = h.End
		}
		age -= max(end.Sub(begin), 0)
	}
	return age
}

// patience is how long others let a lock alone.
func (w *witness) patience(h hold) time.Duration {
	holder, held, err := record.ParseHolder([]byte(h.by))
	require.NoError(w.t, err)
	require.True(w.t, held)
	return max(holder.Patience, w.grace) + jitter
}

// requireReleased requires that no lock has outlived the grace for long, and that nothing is left of any transaction: no lock, and,
// after another process has come, no decision.
func (w *witness) requireReleased() {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.nothingLeft(record.Lock) }, workload.Patience, pace, "locks are left")
	w.bench.open()
	require.Eventually(w.t, func() bool { return w.nothingLeft(record.Txn) }, workload.Patience, pace, "decisions are left")
	w.stop()
	machine := w.machine()
	var ages []time.Duration
	slow := 0
	for _, h := range w.done {
		age := w.age(h)
		ages = append(ages, age)
		if age >= shortest {
			slow++
		}
		require.Less(w.t, age, w.patience(h)+outlived+inTurn*slowest(machine, h.Span), "%s was held by %x for %s", h.where, h.by, h.Took())
	}
	require.NotEmpty(w.t, ages, "nobody took a lock: this test shows less than it should")
	w.t.Logf("%d locks, held for %s (median), %s (99 %%), %s (worst); %d for longer than %s; the longest grace was %s", len(ages),
		median(ages), quantile(ages, 0.99), slices.Max(ages), slow, shortest, w.grace)
}

// slowest is the longest request that was under way in a span.
func slowest(machine [][]workload.Span, in workload.Span) time.Duration {
	var longest time.Duration
	for _, s := range slices.Concat(machine...) {
		if s.Begin.Before(in.End) && s.End.After(in.Begin) {
			longest = max(longest, s.Took())
		}
	}
	return longest
}

// nothingLeft reads the members' records themselves: locks, or decisions.
func (w *witness) nothingLeft(kind record.Kind) bool {
	w.mu.Lock()
	watched := len(w.held)
	w.mu.Unlock()
	return watched == 0 && !slices.ContainsFunc(w.direct, func(m *clientv3.Client) bool { return w.has(m, kind) })
}

func (w *witness) has(member *clientv3.Client, kind record.Kind) bool {
	slots, slotsEnd := record.SlotRange()
	txns, txnsEnd := record.TxnRange()
	resp, err := member.Txn(w.t.Context()).Then(
		clientv3.OpGet(record.KeyLock),
		clientv3.OpGet(string(slots), clientv3.WithRange(string(slotsEnd))),
		clientv3.OpGet(string(txns), clientv3.WithRange(string(txnsEnd))),
	).Commit()
	if err != nil {
		return true
	}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			if isLocked(kv.Value) || kind == record.Txn && record.KindOf(kv.Key) == record.Txn {
				return true
			}
		}
	}
	return false
}
