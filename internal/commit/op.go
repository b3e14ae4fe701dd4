package commit

import (
	"context"
	"errors"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Op is one operation that wants to land on a member. Its functions run on the lane's goroutines or on its caller's, one at a time.
type Op struct {
	Keys [][]byte // keys it touches
	Size int      // bytes it adds to a request, about

	// Missing are keys whose states must be read on the member before Build is called. Know gets them, in that order, as they were at a
	// native revision; it is not called if they could not be read.
	Missing [][]byte
	Know    func(rev int64, states []translate.State)

	// Build makes the operation for a stamp; index is its in the batch. translate.ErrStale asks for another stamp;
	// any other error ends the operation with it. In both cases the stamp is surrendered.
	Build func(stamp int64, index int) (*translate.Guarded, error)
	// Exclude is Build for an operation that needs the member for itself; exactly one of the two is set.
	Exclude func(stamp, epoch int64) (*translate.Exclusive, error)
	// Learn is told the outcome before any other operation on the same keys is built. May be nil.
	Learn func(stamp int64, o translate.Outcome)

	ctx    context.Context
	known  chan struct{} // closed when there is nothing to be known any more; nil: there never was
	asked  bool          // what is missing is being read, or was
	stamp  int64
	epoch  int64
	result chan Result
}

// Result is what became of an operation: it landed, or it was refused and may be tried again with a new stamp.
type Result struct {
	Stamp   int64
	Epoch   int64
	Outcome translate.Outcome
	// Settled: the member's answer was lost and the outcome read off its log. A settled landing carries no results.
	Settled bool
	Err     error // nothing landed, or ErrUnknown
}

// ErrClosed ends what was waiting when the pipeline was closed: it did not land.
var ErrClosed = lifetime.ErrClosed

// ErrUnknown says that an operation may have landed or not, and that this process can no longer find out.
var ErrUnknown = errors.New("metaetcd: the outcome of the write is unknown")

func (o *Op) exclusive() bool { return o.Exclude != nil }

// ready reports whether Build may be called.
func (o *Op) ready() bool {
	if o.known == nil {
		return true
	}
	select {
	case <-o.known:
		return true
	default:
		return false
	}
}

func (o *Op) finish(r Result) { o.result <- r }
