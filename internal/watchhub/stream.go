package watchhub

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What etcd's store answers to a creation that it refuses.
const (
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// answersInFlight bounds the requests of a stream that wait for their answer to be sent. clientv3 sends from the
// goroutine that takes what was received, so a small bound could make both sides wait for each other.
const answersInFlight = 1 << 14

// stream is one call of Watch. Two goroutines serve it: the receiver registers and cancels watchers, and the sender,
// which is the handler itself, sends. The dispatcher puts events into the queue.
type stream struct {
	queue
	hub  *Hub
	grpc pb.Watch_WatchServer
	ctx  context.Context // the handler's
	room chan struct{}   // one entry per answer in flight

	// Guarded by Hub.mu.
	ended bool // no watcher can be registered any more
	fell  fell

	watchersMu sync.Mutex
	watchers   map[int64]*watcher // by id; the receiver's, the others look
	nextID     int64              // the receiver's

	// The sender's.
	behind     []*watcher // in lagging, with their cursors
	lagging    *index     // of behind
	turnOf     int        // whose cursor in behind is read next
	asked      bool       // the client waits for progress
	askedRev   int64      // what it must reach at least
	tick       bool       // the progress interval has passed
	tickRev    int64      // what was told by then
	scratch    []*watcher
	taken      int // items that made watchers lack something, since the last report
	reported   int64
	replays    map[*replay]struct{} // under way
	replayOf   []*watcher           // those that wait for one
	keysOf     []*watcher           // and those of single keys
	keyReplays []*replay            // of single keys, that wait for others to end
	keysRead   int                  // of replays: of single keys
	gathering  <-chan time.Time     // when to begin with them; nil: with the end of another one, or nobody waits
	pieces     chan piece
	reading    sync.WaitGroup
}

// fell is the items of a stream's queue, or soon in it, that make watchers lack something: how many, and the lowest revision of it.
type fell struct {
	items  int
	lowest int64
}

// Watch implements pb.WatchServer.
func (h *Hub) Watch(g pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(g.Context())
	s := &stream{
		queue:    newQueue(h.opts.QueueBytes),
		hub:      h,
		grpc:     g,
		ctx:      ctx,
		room:     make(chan struct{}, answersInFlight),
		watchers: map[int64]*watcher{},
		lagging:  newIndex(),
		fell:     fell{lowest: none},
		reported: none,
		replays:  map[*replay]struct{}{},
		pieces:   make(chan piece),
	}
	defer s.reading.Wait()
	defer cancel()
	defer h.leave(s)

	broken := make(chan error, 1)
	go func() {
		// Not waited for: Recv may return only after the handler has.
		if err := s.receive(); err != nil {
			broken <- err
		}
	}()
	return s.send(broken)
}

// receive handles the client's requests until it cannot. As in etcd, a client that will send no more may go on
// receiving.
func (s *stream) receive() error {
	for {
		req, err := s.grpc.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case s.room <- struct{}{}:
		case <-s.ctx.Done():
			return nil
		}
		if !s.handle(req) {
			<-s.room
		}
	}
}

// handle serves one request and says whether an answer is queued.
func (s *stream) handle(req *pb.WatchRequest) bool {
	switch u := req.GetRequestUnion().(type) {
	case *pb.WatchRequest_CreateRequest:
		return u.CreateRequest != nil && s.create(u.CreateRequest)
	case *pb.WatchRequest_CancelRequest:
		return u.CancelRequest != nil && s.cancel(u.CancelRequest.WatchId)
	case *pb.WatchRequest_ProgressRequest:
		if u.ProgressRequest == nil {
			return false
		}
		s.enqueue(item{kind: itemProgress, rev: s.hub.src.Told()})
		return true
	default:
		return false
	}
}

func (s *stream) create(req *pb.WatchCreateRequest) bool {
	switch {
	case req.StartRevision < 0:
		s.refuse(rpctypes.ErrCompacted.Error())
		return true
	case emptyRange(req):
		s.refuse(reasonEmptyRange)
		return true
	}
	w, ok := s.add(req)
	if !ok {
		s.refuse(reasonDuplicateID)
		return true
	}
	return s.hub.create(w, req.StartRevision)
}

// refuse answers a creation that creates nothing.
func (s *stream) refuse(reason string) {
	s.enqueue(item{kind: itemAnswer, resp: &pb.WatchResponse{
		Header:       s.hub.header(s.hub.src.Told()),
		WatchId:      clientv3.InvalidWatchID,
		Created:      true,
		Canceled:     true,
		CancelReason: reason,
	}})
}

// add gives a watcher its id; false if the one it asked for is taken.
func (s *stream) add(req *pb.WatchCreateRequest) (*watcher, bool) {
	s.watchersMu.Lock()
	defer s.watchersMu.Unlock()
	id := req.WatchId
	if id == clientv3.AutoWatchID {
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	} else if s.watchers[id] != nil {
		return nil, false
	}
	w := newWatcher(s, id, req)
	s.watchers[id] = w
	return w, true
}

// cancel ends a watcher; one that does not exist is not worth an answer.
func (s *stream) cancel(id int64) bool {
	s.watchersMu.Lock()
	w := s.watchers[id]
	delete(s.watchers, id)
	s.watchersMu.Unlock()
	if w == nil {
		return false
	}
	s.hub.cancel(w)
	s.enqueue(item{kind: itemCanceled, w: w, resp: &pb.WatchResponse{
		Header:   s.hub.header(s.hub.src.Told()),
		WatchId:  id,
		Canceled: true,
	}})
	return true
}

// snapshot appends the watchers to ws.
func (s *stream) snapshot(ws []*watcher) []*watcher {
	s.watchersMu.Lock()
	defer s.watchersMu.Unlock()
	return slices.AppendSeq(ws, maps.Values(s.watchers))
}

// progressInterval returns the stream's interval, with a jitter that keeps streams apart which began together.
func (o Options) progressInterval() time.Duration {
	return o.ProgressInterval + rand.N(o.ProgressInterval/10+1)
}
