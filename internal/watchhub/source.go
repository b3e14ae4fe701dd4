package watchhub

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Source is the log that a hub serves. All methods are safe for concurrent use; only Replay may block.
type Source interface {
	// Closed returns the closed revision. It never goes back.
	Closed() int64
	// Told returns the highest revision that clients of this process may have been told of, closed or not, and at least
	// Closed and Compacted: no answer says less, and a watch without a start revision begins behind it.
	Told() int64
	// Await says that somebody waits until a revision is closed.
	Await(rev int64)
	// Compacted returns the compacted revision, 0 if there is none. Watches from below it are refused.
	Compacted() int64
	// Since returns the events with stamps in [from, Closed()], in order, at most maxEvents but never a part of a
	// stamp, in a slice that is the caller's, and the revision to go on from: Closed()+1 when there are no more.
	// It fails with mergedlog.ErrEvicted below the log's memory; any other error is final.
	Since(from int64, maxEvents int) (evs []*mergedlog.Event, next int64, err error)
	// Floor returns the revision below which Since fails.
	Floor() int64
	// ReplayTo returns up to where a watcher needs Replay that lacks something below the floor. It is at or above Floor()-1.
	ReplayTo() int64
	// Advanced returns a channel that is closed when Closed next grows. Get it before reading Closed.
	Advanced() <-chan struct{}
	// Passed says that the dispatcher needs nothing up to a revision any more. Compaction must not take the rest from the log's
	// memory: watchers that keep up are not compacted.
	Passed(rev int64)
	// Needs says that no watcher that is there needs anything below a revision from the memory of the log. Until it hears that, the
	// source keeps what was just released in large numbers, within bounds.
	Needs(rev int64)
	// Replay reads events from before the log's memory: those of a range, in etcd's convention, with stamps in
	// [from, to], in order, all of a stamp in one call of fn, which keeps the events but not the slice. It fails with
	// a *CompactedError when compaction overtook it, and with fn's error; after any other the hub tries again.
	Replay(ctx context.Context, key, end []byte, from, to int64, fn func(evs []*mergedlog.Event) error) error
	// ReplayKey is Replay of a single key, which asks for little else. false: it is not to be had like that, and fn was not called.
	ReplayKey(ctx context.Context, key []byte, from, to int64, fn func(evs []*mergedlog.Event) error) (bool, error)
	// Header returns a new header with everything but the revision.
	Header() *pb.ResponseHeader
	// Done is closed when the log has come to its end; Err then says why.
	Done() <-chan struct{}
	Err() error
}

// CompactedError says that history was asked for that is gone.
type CompactedError struct {
	Rev int64 // the compacted revision
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("metaetcd: history below revision %d is compacted", e.Rev)
}

// Options tune a hub. The zero value is etcd's defaults.
type Options struct {
	// MaxRequestBytes is where responses are split: into fragments for watchers that asked for them, and, between
	// revisions, for all. Default: 1.5 MiB.
	MaxRequestBytes int
	// QueueBytes bounds the events that wait in one stream's queue. Default: 4 MiB.
	QueueBytes int
	// ProgressInterval is the time between the notifications of a watcher with progress_notify and without events. Up
	// to a tenth is added at random. Default: 10 minutes.
	ProgressInterval time.Duration
	// Logger is told of history that cannot be read. Default: none.
	Logger *zap.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxRequestBytes <= 0 {
		o.MaxRequestBytes = 3 << 19
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = 4 << 20
	}
	if o.ProgressInterval <= 0 {
		o.ProgressInterval = 10 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}
