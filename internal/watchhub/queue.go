package watchhub

import (
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// itemKind says what the sender does with an item.
type itemKind uint8

const (
	itemEvents   itemKind = iota // send events to w; afterwards it has everything up to rev
	itemBehind                   // w is behind from rev on
	itemCreated                  // send resp; if rev > 0, w is behind from rev on
	itemAnswer                   // send resp, which is about no watcher
	itemCanceled                 // send resp and forget w
	itemProgress                 // the client asked for progress; what was told by then is rev
)

// item is one entry of a stream's queue.
type item struct {
	kind   itemKind
	charge int64 // bytes counted for it
	w      *watcher
	events []*mergedlog.Event
	resp   *pb.WatchResponse
	rev    int64
}

// control says whether the item answers a request; there is room for a limited number of those.
func (it *item) control() bool { return it.kind >= itemCreated }

// batch is what one step of the dispatcher found for one range. Its events are shared by the queues it is in.
type batch struct {
	rev    int64
	events []*mergedlog.Event
	bytes  int64
}

const (
	// itemOverhead is counted for an item beside its events.
	itemOverhead = 96
	// keepItems is how long a queue may be whose memory is used again.
	keepItems = 4096
)

// queue is what waits for a stream's sender. Safe for concurrent use by any number of producers and one consumer.
type queue struct {
	limit int64
	bytes atomic.Int64 // charged for events not sent yet; may pass the limit by one batch
	wake  chan struct{}

	mu    sync.Mutex
	items []item
	last  *batch // queued last: its events are charged only once

	taken []item // the consumer's
}

func newQueue(limit int) queue { return queue{limit: int64(limit), wake: make(chan struct{}, 1)} }

// offer queues events of a batch for a watcher unless the queue is full.
func (q *queue) offer(w *watcher, b *batch, own []*mergedlog.Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	charge := int64(itemOverhead)
	if q.last != b {
		charge += b.bytes
	}
	if has := q.bytes.Load(); has > 0 && has+charge > q.limit {
		return false
	}
	q.last = b
	q.bytes.Add(charge)
	q.pushLocked(item{kind: itemEvents, w: w, events: own, rev: b.rev, charge: charge})
	return true
}

// enqueue queues what must not be refused. Its number is bounded by the watchers and by stream.room.
func (q *queue) enqueue(it item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pushLocked(it)
}

func (q *queue) pushLocked(it item) {
	q.items = append(q.items, it)
	if len(q.items) == 1 {
		q.rouse()
	}
}

// rouse makes the consumer look at its stream again.
func (q *queue) rouse() { lifetime.Wake(q.wake) }

// take returns everything that is queued; the slice is the consumer's until the next call.
func (q *queue) take() []item {
	clear(q.taken)
	if cap(q.taken) > keepItems {
		q.taken = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items, q.taken = q.taken[:0], q.items
	q.last = nil
	return q.taken
}

// sent gives back what was charged for an item, and lets go of it.
func (q *queue) sent(it *item) {
	q.bytes.Add(-it.charge)
	*it = item{}
}
