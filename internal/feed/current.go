package feed

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Current is the feed that serves at present, for those that outlive feeds, and what the process has said of revisions. Between
// two feeds there is none, and requests wait. Safe for concurrent use.
//
// A client must never be told less than it was told before. Most of what it is told is closed, and W never goes back. But a write is
// acknowledged before it is closed, and W has no value while the log is being reopened. So the highest revision that was told is
// kept, for the process as a whole: it cannot know which of its callers talk to each other.
type Current struct {
	life *lifetime.Life
	id   Identity

	Compacted    lifetime.Watermark // the meta cluster's compacted revision, as far as it is known here
	told         lifetime.Watermark // see Tell
	closedBefore lifetime.Watermark // the closed revision of earlier feeds

	log atomic.Pointer[mergedlog.Log] // of the newest feed, also while it is being opened

	mu    sync.Mutex
	feed  *Feed         // nil while a new one is being opened
	grace time.Duration // of the feed before
	ready chan struct{} // closed when feed is set
}

// Identity is what the headers of one client's answers have in common.
type Identity struct {
	ClusterID uint64
	MemberID  uint64       // unlike any other client's
	Epoch     func() int64 // the clock's, as raft term
}

// NewCurrent returns what has no feed yet: Wait waits until Set. l is the process's life.
func NewCurrent(l *lifetime.Life, id Identity) *Current {
	return &Current{life: l, id: id, ready: make(chan struct{})}
}

// Set makes f the feed that serves; nil: none does, and nobody waits for the last one any more. Between two feeds it is called with nil.
func (c *Current) Set(f *Feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f != nil:
		c.feed = f
		close(c.ready)
	case c.feed != nil:
		c.grace = c.feed.Grace()
		close(c.feed.replaced)
		c.feed = nil
		c.ready = make(chan struct{})
	}
}

// lastGrace is the grace that the feed before had come to; 0: there was none.
func (c *Current) lastGrace() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grace
}

// Now returns the feed, nil while there is none.
func (c *Current) Now() *Feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.feed
}

// Wait returns the feed to serve a request from; it waits while a new one is being opened. It fails with the context's error, or
// with why the process is over.
func (c *Current) Wait(ctx context.Context) (*Feed, error) {
	for {
		c.mu.Lock()
		f, ready := c.feed, c.ready
		c.mu.Unlock()
		if c.life.Over() {
			return nil, c.life.Cause()
		}
		if f != nil {
			if !f.Over() {
				return f, nil
			}
			ready = f.replaced
		}
		select {
		case <-ready:
		case <-c.life.Context().Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// follow makes log the newest feed's.
func (c *Current) follow(log *mergedlog.Log) {
	c.closedBefore.Raise(c.Closed())
	c.log.Store(log)
}

// Tell notes that a client is about to learn of a revision that may not be closed.
func (c *Current) Tell(rev int64) { c.told.Raise(rev) }

// Told is the highest revision that Tell was called with.
func (c *Current) Told() int64 { return c.told.Load() }

// Known is the highest revision that this process's clients may have learned of: what they are told later covers it. It may not be
// closed; but then it will be, because it was handed out.
func (c *Current) Known() int64 { return max(c.Closed(), c.told.Load(), c.Compacted.Load()) }

// Closed is the highest revision that was closed in this process, by this log or an earlier one.
func (c *Current) Closed() int64 {
	var now int64
	if log := c.log.Load(); log != nil {
		now = log.Closed()
	}
	return max(now, c.closedBefore.Load()) // in this order: the log may have been replaced meanwhile
}

// Highest is the highest stamp that any member has shown to this process.
func (c *Current) Highest() int64 {
	if log := c.log.Load(); log != nil {
		return log.Highest()
	}
	return 0
}

// FenceHolds tells the newest log, if there is one, the answer of a raise on a member.
func (c *Current) FenceHolds(member int, r member.Raised) {
	if log := c.log.Load(); log != nil {
		log.FenceHolds(member, r.Epoch, r.Fence, r.Rev)
	}
}

// Header is a new header with the part that does not depend on the request.
func (c *Current) Header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: c.id.ClusterID, MemberId: c.id.MemberID, RaftTerm: uint64(c.id.Epoch())}
}

// KnownHeader is a header that covers what this process's clients know.
func (c *Current) KnownHeader() *pb.ResponseHeader {
	h := c.Header()
	h.Revision = c.Known()
	return h
}
