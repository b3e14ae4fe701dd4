package watchhub

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// ErrClosed ends the streams of a closed hub.
var ErrClosed = status.Error(codes.Canceled, "metaetcd: the watch service is closed")

// dispatchEvents is how many events the dispatcher takes at once: the time for which it keeps Hub.mu.
const dispatchEvents = 1024

// Hub serves watches. It implements pb.WatchServer and is safe for concurrent use.
//
// Hub.mu guards the index of synced watchers and everything that moves a watcher in or out; it is taken before
// stream.mu. position is written under it and read anywhere.
type Hub struct {
	pb.UnsafeWatchServer

	src  Source
	opts Options

	position atomic.Int64 // everything up to it is queued for the synced watchers
	events   atomic.Uint64
	outage   backoff.Outages[*replay] // of the reading of history

	mu       sync.Mutex
	synced   *index
	watchers int
	waiting  map[*stream]int64 // streams to wake once the position reaches a revision
	behind   map[*stream]int64 // the lowest revision that a watcher of the stream lacks, of those that read the log themselves

	stop    sync.Once
	err     error         // why done is closed
	done    chan struct{} // the hub has come to its end
	stopped chan struct{} // the dispatcher has returned
}

var _ pb.WatchServer = (*Hub)(nil)

// New starts a hub. It ends with the source or with Close.
func New(src Source, opts Options) *Hub {
	h := &Hub{
		src:     src,
		opts:    opts.withDefaults(),
		synced:  newIndex(),
		waiting: map[*stream]int64{},
		behind:  map[*stream]int64{},
		done:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	h.position.Store(src.Closed())
	h.needs()
	go h.dispatch()
	return h
}

// Close ends every stream with ErrClosed and waits for the dispatcher. A stream whose client does not read ends when
// the client's context does. Close is idempotent.
func (h *Hub) Close() {
	h.end(h.terminal(ErrClosed)) // the source may have ended just before, for a reason of its own
	<-h.stopped
}

// Stats returns the number of watchers, how many of them are not synced, and how many events were sent so far.
func (h *Hub) Stats() (watchers, lagging int, events uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.watchers, h.watchers - h.synced.len(), h.events.Load()
}

// Wants reports whether some watcher that has everything so far watches one of the keys.
func (h *Hub) Wants(keys [][]byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(keys, h.synced.has)
}

func (h *Hub) end(err error) {
	h.stop.Do(func() {
		h.err = err
		close(h.done)
	})
}

// header returns a response header at a revision.
func (h *Hub) header(rev int64) *pb.ResponseHeader {
	hd := h.src.Header()
	hd.Revision = rev
	return hd
}

// dispatch follows the source until the hub's end.
func (h *Hub) dispatch() {
	defer close(h.stopped)
	for {
		advanced := h.src.Advanced()
		for more := true; more; {
			select {
			case <-h.done:
				return
			default:
			}
			var err error
			if more, err = h.step(); err != nil {
				h.end(h.terminal(err))
				return
			}
			h.src.Passed(h.position.Load())
			h.needs()
		}
		select {
		case <-advanced:
		case <-h.src.Done():
			h.end(h.terminal(h.src.Err()))
			return
		case <-h.done:
			return
		}
	}
}

// terminal prefers the source's own word on its end.
func (h *Hub) terminal(err error) error {
	if own := h.src.Err(); own != nil {
		return own
	}
	return err
}

// step moves the position on and says whether there is more to do.
func (h *Hub) step() (more bool, err error) {
	from := h.position.Load() + 1
	if h.skip() {
		return false, nil
	}
	evs, next, err := h.src.Since(from, dispatchEvents)
	if errors.Is(err, mergedlog.ErrEvicted) {
		h.overrun(from)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deliverLocked(evs, next-1)
	h.advanceLocked(next - 1)
	return next <= h.src.Closed(), nil
}

// skip passes over everything that is closed if nobody would see it.
func (h *Hub) skip() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.synced.len() > 0 {
		return false
	}
	h.advanceLocked(h.src.Closed())
	return true
}

// deliverLocked queues events, after which the position will be rev, for the watchers that are to see them.
func (h *Hub) deliverLocked(evs []*mergedlog.Event, rev int64) {
	for _, g := range h.synced.match(evs) {
		b := &batch{rev: rev, events: g.take()}
		b.bytes = sizeAll(b.events)
		for _, w := range slices.Backward(g.watchers) {
			own := since(b.events, w.next)
			if len(own) > 0 && !w.stream.offer(w, b, own) {
				h.fallBehindLocked(w, own[0].Rev)
			}
		}
	}
}

// overrun leaves the synced watchers to their streams, because the log's memory has overtaken the dispatcher.
func (h *Hub) overrun(from int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	to := h.src.Closed()
	for _, w := range h.synced.all() {
		if w.next <= to {
			h.fallBehindLocked(w, max(w.next, from))
		}
	}
	h.advanceLocked(to)
}

func (h *Hub) fallBehindLocked(w *watcher, cursor int64) {
	h.synced.remove(w)
	w.synced = false
	h.fellLocked(w.stream, cursor)
	w.stream.enqueue(item{kind: itemBehind, w: w, rev: cursor})
}

// fellLocked notes that an item in the stream's queue, soon, will make a watcher lack what comes from a revision on.
func (h *Hub) fellLocked(s *stream, cursor int64) {
	s.fell.items++
	s.fell.lowest = min(s.fell.lowest, cursor)
	if low, ok := h.behind[s]; !ok || cursor < low {
		h.behind[s] = cursor
	}
}

// noted says what the lowest revision is that a watcher of a stream lacks, once so many of the items that make watchers lack
// something have been taken from its queue. none: nothing.
func (h *Hub) noted(s *stream, lowest int64, items int) {
	h.mu.Lock()
	s.fell.items -= items
	if s.fell.items == 0 {
		s.fell.lowest = none
	}
	lowest = min(lowest, s.fell.lowest)
	if lowest == none || s.ended {
		delete(h.behind, s)
	} else {
		h.behind[s] = lowest
	}
	h.mu.Unlock()
	h.needs()
}

// needs tells the source what it need not keep for the watchers that there are.
func (h *Hub) needs() {
	h.mu.Lock()
	lowest := h.position.Load() + 1
	for _, low := range h.behind {
		lowest = min(lowest, low)
	}
	h.mu.Unlock()
	h.src.Needs(lowest)
}

// advanceLocked publishes the position. What it promises has to be queued before.
func (h *Hub) advanceLocked(rev int64) {
	if rev <= h.position.Load() {
		return
	}
	h.position.Store(rev)
	for s, want := range h.waiting {
		if rev >= want {
			delete(h.waiting, s)
			s.rouse()
		}
	}
}

// await rouses a stream as soon as the position has reached a revision, or the lowest of several.
func (h *Hub) await(s *stream, rev int64) {
	h.src.Await(rev)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.position.Load() >= rev {
		s.rouse()
		return
	}
	if lowest, ok := h.waiting[s]; !ok || rev < lowest {
		h.waiting[s] = rev
	}
}

// create registers a watcher and queues its Created; not on a stream that has ended. A start of 0 means now.
func (h *Hub) create(w *watcher, start int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.stream.ended {
		return false
	}
	w.floor, w.bare = start, h.src.Compacted()
	told := h.src.Told() // not below bare
	created := item{kind: itemCreated, w: w, resp: &pb.WatchResponse{Header: h.header(told), WatchId: w.id, Created: true}}
	w.registered = true
	h.watchers++
	if start == 0 { // everything above the header's revision follows
		w.floor, start = told, told+1
	}
	synced := start > h.position.Load() && start >= w.bare
	if !synced {
		created.rev = start
		h.fellLocked(w.stream, start)
	}
	w.stream.enqueue(created)
	if synced {
		h.syncLocked(w, start)
	}
	return true
}

// syncLocked gives a watcher to the dispatcher. Everything below next was sent, or is not wanted; next > position.
func (h *Hub) syncLocked(w *watcher, next int64) {
	w.next = next
	w.synced = true
	h.synced.add(w)
}

// join syncs those of the watchers, which are behind, that have caught up with the dispatcher, and returns the others.
func (h *Hub) join(s *stream, behind []*watcher) []*watcher {
	h.mu.Lock()
	defer h.mu.Unlock()
	position := h.position.Load()
	left := behind[:0]
	for _, w := range behind {
		switch {
		case w.gone.Load():
			s.caughtUp(w)
		case w.sender.cursor > position:
			s.caughtUp(w)
			h.syncLocked(w, w.sender.cursor)
		default:
			w.sender.place = len(left)
			left = append(left, w)
		}
	}
	clear(behind[len(left):])
	return left
}

// remove takes a watcher that was cancelled out of the hub.
func (h *Hub) remove(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(w)
}

func (h *Hub) removeLocked(w *watcher) {
	if w.synced {
		h.synced.remove(w)
		w.synced = false
	}
	if w.registered {
		w.registered = false
		h.watchers--
	}
}

// cancel removes a watcher at its client's wish; from now on its queued events are skipped.
func (h *Hub) cancel(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.gone.Store(true)
	h.removeLocked(w)
}

// leave removes a stream with all its watchers.
func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	s.ended = true
	delete(h.waiting, s)
	delete(h.behind, s)
	for _, w := range s.snapshot(nil) {
		h.removeLocked(w)
	}
	h.mu.Unlock()
	h.needs()
}
