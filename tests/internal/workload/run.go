package workload

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Patience is how long a request may take, whatever is broken meanwhile: one that takes longer hangs. No fault lasts as long; what is
// granted beside is a machine on which everything else is tested at the same time. What faults may add is bounded by the tests.
const Patience = 3 * time.Minute

// Store is what is put under load.
type Store interface {
	clientv3.KV
	clientv3.Watcher
}

// Run is one load and its record. Methods are safe for concurrent use, but those that take or hold a testing.TB belong to the
// test's own goroutine.
type Run struct {
	t      testing.TB
	serial atomic.Int64 // makes values unique
	told   atomic.Int64 // the highest revision that anybody was told

	mu      sync.Mutex
	h       History
	clients []*Client
}

// Start begins a history with what the store holds at present.
func Start(t testing.TB, s Store) *Run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	resp, err := s.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		t.Fatalf("workload: the first list: %v", err)
	}
	r := &Run{t: t, h: History{Base: resp.Header.Revision, First: resp.Kvs}}
	r.tell(resp.Header.Revision)
	return r
}

// Join adds a process and records its watch of everything from now on.
func (r *Run) Join(name string, s Store) *Client {
	c := &Client{Name: name, run: r, store: s}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.resting, c.rest = context.WithCancel(c.ctx)
	c.stream = c.watch(&Stream{Client: name, From: r.told.Load() + 1})
	r.mu.Lock()
	r.clients = append(r.clients, c)
	r.mu.Unlock()
	r.t.Cleanup(c.end)
	return c
}

// Record adds a write that somebody else made.
func (r *Run) Record(w *Write) {
	r.mu.Lock()
	r.h.Writes = append(r.h.Writes, w)
	r.mu.Unlock()
	r.tell(w.Rev)
}

// Value makes a value that no other write has.
func (r *Run) Value(client string) string { return fmt.Sprintf("%s#%d", client, r.serial.Add(1)) }

// Finish ends the load, waits until every watch has delivered all of it, and lets every client read the end and watch a part again.
func (r *Run) Finish() *History {
	r.t.Helper()
	clients := r.present()
	for _, c := range clients {
		c.rest()
	}
	for _, c := range clients {
		c.workers.Wait()
	}
	live := slices.DeleteFunc(slices.Clone(clients), func(c *Client) bool { return c.stream.s.Lost })
	ctx, cancel := context.WithTimeout(r.t.Context(), Patience)
	defer cancel()
	rev, err := live[0].Put(ctx, "the/end")
	if err != nil {
		r.t.Fatalf("workload: the last write: %v", err)
	}
	for _, c := range live {
		_ = c.List(ctx, 0)
		_ = c.List(ctx, rev)
		again := c.watch(&Stream{Client: c.Name, From: (r.h.Base + rev) / 2, Resumed: true})
		for _, w := range append(c.watches(), again) {
			w.await(ctx, rev)
		}
		again.stop()
	}
	for _, c := range live {
		c.end()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Last = rev
	h := r.h
	return &h
}

func (r *Run) present() []*Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.clients)
}

// Base is the revision that the history begins after.
func (r *Run) Base() int64 { return r.h.Base }

// Told is the highest revision that anybody was told.
func (r *Run) Told() int64 { return r.told.Load() }

// tell notes that somebody was told a revision.
func (r *Run) tell(rev int64) {
	for old := r.told.Load(); rev > old && !r.told.CompareAndSwap(old, rev); old = r.told.Load() {
	}
}

func (r *Run) read(rd *Read) {
	r.mu.Lock()
	r.h.Reads = append(r.h.Reads, rd)
	r.mu.Unlock()
}

// fault notes what is wrong whatever else happened.
func (r *Run) fault(kind error, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Faults = append(r.h.Faults, fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...)))
}
