package fencer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/metaetcd/metaetcd/internal/lifetime"
)

const (
	// patience is how much longer than the grace a gap is left to others that nobody in this process waits for.
	patience = time.Second
	// probeAfter is how long a reader waits before it is looked whether a member is away.
	probeAfter = 50 * time.Millisecond
	// answerWithin is how long a member may take at least before it counts as away, and answerWithinMost, where requests and
	// landings are slow, at most.
	answerWithin     = 250 * time.Millisecond
	answerWithinMost = time.Second
)

// Log is what a fencer asks of the merged log.
type Log interface {
	// Gap says what the closed revision waits for; see mergedlog.Log.
	Gap() (missing, known int64, blocked bool)
	// Closed is the closed revision.
	Closed() int64
	// FencedUpTo is the fence that counts on every member.
	FencedUpTo() int64
	// FencedMarks counts the stamps that fences have killed.
	FencedMarks() uint64
}

// Fence is a member's fence, in an epoch, at a member revision.
type Fence struct {
	Epoch, Fence, Rev int64
	Raised            bool // by the request that this answers
}

// Member is a member as a fencer sees it. The functions may be called concurrently.
type Member struct {
	// Look reads the member's fence, linearizably.
	Look func(ctx context.Context) (Fence, error)
	// Raise raises it to rev in an epoch, unless it is higher. In another epoch it does nothing. It answers with the
	// fence as it is then; the log has been told.
	Raise func(ctx context.Context, epoch, rev int64) (Fence, error)
	// WaitReached waits until the member's stream has come to a member revision; Position is where it stands.
	WaitReached func(ctx context.Context, rev int64) error
	Position    func() int64
}

// Config says whose gaps are closed. All functions are fast, but for Sync and the members'.
type Config struct {
	Log     Log
	Members []Member
	// Epoch is the clock's epoch. Sync learns of a new one.
	Epoch func() int64
	Sync  func(ctx context.Context)
	// Holds reports whether this process itself holds a stamp: it is about to land, or to be given up.
	Holds func(stamp int64) bool
	// Wanted reports whether somebody in this process waits for what is above the closed revision.
	Wanted func() bool
	// OnRaise is told of each fence that was raised, OnError of each member that did not answer. Both may be nil.
	OnRaise func()
	OnError func(member int, err error)
}

// Fencer closes gaps. Its methods are safe for concurrent use; Run is called once.
type Fencer struct {
	cfg   Config
	woken chan struct{}
	grace grace

	mu      sync.Mutex
	awaited reading // highest reading of the clock that somebody waits for
	stuck   bool
	readers map[*reader]struct{} // who has waited for a while; see probe

	// Of the Run goroutine.
	epoch   int64 // of known
	known   []sighting
	missing int64        // at the last look; 0: it was no gap, or held up by parts
	closed  int64        // the closed revision then
	since   time.Time    // when it was first seen held up there
	busy    chan outcome // of an attempt under way; nil: none
	rested  time.Time    // no attempt before
	probed  chan finding // of a probe under way; nil: none

	suspected bool // that a member is away
	vote      *election
}

// reading is a reading of the clock in an epoch. In another epoch it means nothing: a clock that was rebuilt may stand
// below it, and a fence raised to it would close revisions that are still to come.
type reading struct{ epoch, rev int64 }

// sighting says that at time t, stamps up to rev had been handed out.
type sighting struct {
	t   time.Time
	rev int64
}

// reader is told when the closed revision is stuck, but not before a time.
type reader struct {
	due  time.Time
	tell func()
}

// New returns a fencer that does nothing before Run.
func New(cfg Config) *Fencer {
	f := &Fencer{cfg: cfg, woken: make(chan struct{}, 1), readers: map[*reader]struct{}{}, vote: newElection()}
	f.grace.start(time.Now())
	return f
}

// Kick makes the fencer look. It is cheap.
func (f *Fencer) Kick() { lifetime.Wake(f.woken) }

// Await says that somebody waits for rev, a reading of the clock in an epoch.
func (f *Fencer) Await(epoch, rev int64) {
	f.mu.Lock()
	if epoch > f.awaited.epoch || epoch == f.awaited.epoch && rev > f.awaited.rev {
		f.awaited = reading{epoch, rev}
	}
	f.mu.Unlock()
	f.Kick()
}

// awaitedIn is the highest reading of the epoch's clock that somebody waits for, 0 if there is none.
func (f *Fencer) awaitedIn(epoch int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.awaited.epoch != epoch {
		return 0
	}
	return f.awaited.rev
}

// Grace is how long a missing stamp may take before it is fenced off.
func (f *Fencer) Grace() time.Duration { return f.grace.present() }

// Run closes gaps until ctx ends.
func (f *Fencer) Run(ctx context.Context) {
	again := time.NewTimer(patience)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-f.woken:
		case <-again.C:
		case o := <-f.busy:
			f.busy = nil
			f.resolved(time.Now(), o)
		case p := <-f.probed:
			f.probed = nil
			f.found(p)
		case <-ctx.Done():
			if f.busy != nil {
				<-f.busy
			}
			if f.probed != nil {
				<-f.probed
			}
			return
		}
		f.probe(ctx)
		if wait := f.look(ctx, time.Now()); wait > 0 {
			again.Reset(wait)
		} else {
			again.Stop()
		}
	}
}

// look notes what is known, adapts the grace, and has a gap closed that is overdue. It returns when it is to be called again even
// if nothing happens; 0: it need not. With many processes there is always some gap somewhere, so that none is looked at for
// nothing.
func (f *Fencer) look(ctx context.Context, now time.Time) time.Duration {
	f.grace.adapt(now, f.cfg.Log.FencedMarks())
	if epoch := f.cfg.Epoch(); epoch != f.epoch {
		f.epoch, f.known, f.missing = epoch, nil, 0
	}
	awaited := f.awaitedIn(f.epoch)
	missing, known, blocked := f.cfg.Log.Gap()
	known = max(known, awaited)
	f.noteLanded(now, missing)
	if missing > known {
		f.known, f.since = f.known[:0], time.Time{}
		f.setStuck(false)
		return 0
	}
	f.noteMoved(now)
	if missing == 0 { // the Resolver's
		return f.hold(now)
	}
	if n := len(f.known); n == 0 || f.known[n-1].rev < known {
		f.known = append(f.known, sighting{now, known})
	}
	f.missing = missing
	switch {
	case f.busy != nil:
		return 0 // it ends
	case f.cfg.Holds(missing):
		return f.hold(now)
	case now.Before(f.rested):
		return f.rested.Sub(now)
	}
	overdue, wait := f.due(now, missing, awaited >= missing, blocked)
	if overdue.rev > 0 {
		f.resolve(ctx, gap{f.epoch, missing, overdue.rev}, overdue.t.Add(f.Grace()))
	}
	return wait
}

// hold takes the closed revision for stuck when what holds it up is not for a fence, and takes long.
func (f *Fencer) hold(now time.Time) time.Duration {
	left := max(answerWithin, 2*f.Grace()) - now.Sub(f.since)
	if left > 0 {
		return left
	}
	f.setStuck(true)
	return answerWithin
}

// noteMoved forgets that the closed revision was stuck, once it has moved.
func (f *Fencer) noteMoved(now time.Time) {
	if closed := f.cfg.Log.Closed(); closed != f.closed || f.since.IsZero() {
		f.closed, f.since = closed, now
		f.setStuck(false)
	}
}

// noteLanded tells the grace how long a stamp was missing that is not missing any more, unless a fence may have ended that, or it
// was an outage that did.
func (f *Fencer) noteLanded(now time.Time, missing int64) {
	if f.missing == 0 || missing == f.missing {
		return
	}
	if f.cfg.Log.FencedUpTo() < f.missing && !f.isStuck() {
		for _, s := range f.known {
			if s.rev >= f.missing {
				f.grace.landed(now, now.Sub(s.t))
				break
			}
		}
	}
	f.missing = 0
	n := 0
	for n < len(f.known) && f.known[n].rev < missing {
		n++
	}
	f.known = append(f.known[:0], f.known[n:]...)
}

// due returns the highest stamp that will have been known for longer than the grace when an attempt has looked; none if the missing
// one will not, or if nobody waits. Then it may be so after a time.
func (f *Fencer) due(now time.Time, missing int64, awaited, blocked bool) (overdue sighting, wait time.Duration) {
	if !awaited && !blocked {
		return overdue, 0
	}
	late := f.Grace() - min(f.Grace()/2, f.vote.took)
	if wait := f.overdueIn(now, missing, late); wait > 0 {
		return overdue, wait
	}
	if !awaited && !f.cfg.Wanted() {
		late += patience
		if f.overdueIn(now, missing, late) > 0 {
			return overdue, unwanted
		}
	}
	for _, s := range f.known {
		if now.Sub(s.t) < late {
			break
		}
		overdue = s
	}
	return overdue, 0
}

// unwanted is how soon it is looked again whether somebody waits for a gap.
const unwanted = 50 * time.Millisecond

// overdueIn returns how long it takes until the missing stamp has been known for a time.
func (f *Fencer) overdueIn(now time.Time, missing int64, late time.Duration) time.Duration {
	for _, s := range f.known {
		if s.rev >= missing {
			return max(late-now.Sub(s.t), 0)
		}
	}
	return late
}

// setStuck says whether the closed revision is held up by a member that is away, or by what only such a member can end.
func (f *Fencer) setStuck(stuck bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stuck = stuck
	if stuck {
		f.tellLocked(time.Now())
	}
}

func (f *Fencer) isStuck() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stuck
}

func (f *Fencer) tellLocked(now time.Time) {
	for r := range f.readers {
		if !now.Before(r.due) {
			r.tell()
			delete(f.readers, r)
		}
	}
}

// ErrStuck is the cause of a context of WhileMoving.
var ErrStuck = errors.New("the closed revision is held up by a member that does not answer")

// WhileMoving returns a context that ends, with the cause ErrStuck, when the closed revision is held up by a member that is away,
// but not before a time has passed. It does not end because landings, or this process, are slow.
func (f *Fencer) WhileMoving(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &reader{time.Now().Add(after), func() { cancel(ErrStuck) }}
	early := time.AfterFunc(min(after, probeAfter), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if ctx.Err() == nil {
			f.readers[r] = struct{}{}
			f.Kick()
		}
	})
	due := time.AfterFunc(after, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.stuck {
			r.tell()
		}
	})
	return ctx, func() {
		early.Stop()
		due.Stop()
		cancel(nil)
		f.mu.Lock()
		delete(f.readers, r)
		f.mu.Unlock()
	}
}
