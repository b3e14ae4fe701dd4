package read

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// Config is what reads are served from. It does not change.
type Config struct {
	Life        *lifetime.Life
	Feeds       *feed.Current
	Members     []*member.Member
	CompactedOn *member.Member // the member whose record `compacted` counts
	Ring        *ring.Ring
	Clock       *clock.Clock
	Commit      *commit.Pipeline
	Leases      *lease.Lessor
	Cache       *statecache.Cache

	CacheEntries int    // of the cache
	MaxTxnOps    int    // the members' --max-txn-ops
	OnFencedRead func() // a read was served by its member alone; concurrent
}

// Reader serves the reads of one process from snapshots. Safe for concurrent use.
type Reader struct {
	cfg     Config
	guesses guesses
}

// New returns a reader. It starts nothing.
func New(cfg Config) *Reader { return &Reader{cfg: cfg} }

// Range serves a validated range request.
func (r *Reader) Range(ctx context.Context, req *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	err = r.Serve(ctx, func(f *feed.Feed) error {
		resp, err = r.read(ctx, f, req)
		return err
	})
	return resp, err
}

// Stream sends what a validated range request asks for in chunks, all of one revision. The last one carries the header, More and
// Count.
func (r *Reader) Stream(ctx context.Context, req *pb.RangeRequest, send func(*pb.RangeResponse) error) error {
	st := &stream{reader: r, req: req, send: send}
	return r.Serve(ctx, func(f *feed.Feed) error {
		if err := st.pin(ctx, f); err != nil {
			return err
		}
		err := st.run(ctx, f)
		// What was sent cannot be taken back: a stream that has begun ends with its revision.
		return Asked(err, req.Revision > 0 || st.sent > 0)
	})
}

// Revision returns a revision that covers everything acknowledged before the call, by any process.
func (r *Reader) Revision(ctx context.Context) (rev int64, err error) {
	err = r.Serve(ctx, func(f *feed.Feed) error {
		rev, err = r.linearize(ctx, f)
		return err
	})
	return rev, err
}

// read serves a validated range request from one snapshot.
func (r *Reader) read(ctx context.Context, f *feed.Feed, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if !req.Serializable && len(req.RangeEnd) == 0 && req.Revision <= 0 {
		return r.readKey(ctx, f, req)
	}
	at, header, err := r.readRevision(ctx, f, req)
	if err != nil {
		return nil, err
	}
	resp, err := r.rangeAt(ctx, f, req, at, nil)
	if err != nil {
		return nil, Asked(err, req.Revision > 0)
	}
	resp.Header = r.cfg.Feeds.Header()
	if resp.Header.Revision, err = header(ctx); err != nil {
		return nil, err
	}
	return resp, nil
}

// AskedError marks an error about a revision that the request named: it is the request's own, not a sign that this process is behind.
type AskedError struct{ error }

// Unwrap returns etcd's error.
func (e AskedError) Unwrap() error { return e.error }

// Asked marks an error of a read if the request named the revision. nil stays nil.
func Asked(err error, named bool) error {
	if err == nil || !named {
		return err
	}
	return AskedError{err}
}
