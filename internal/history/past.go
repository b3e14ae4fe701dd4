package history

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// past is what was learned of one member's past.
type past struct {
	Member
	h  *History
	id int

	samples samples
	index   atomic.Pointer[index]
	turn    chan struct{} // full while somebody extends the index
}

// bracket returns lo(r), and hi(r) or a later revision. It reads no stamps: where neither the log nor the index knows them, both are found
// by bisection over the record `clock`.
func (p *past) bracket(ctx context.Context, r int64) (lo, hi int64, err error) {
	r = max(r, firstClock)
	if err := p.h.check(r); err != nil {
		return 0, 0, err
	}
	if r >= p.h.log.Began() {
		return p.live(r)
	}
	if x := p.index.Load(); x != nil && x.base <= r {
		lo, err = p.loOf(ctx, x, r)
		return lo, max(lo, x.hi(r)), err
	}
	_, last, err := p.live(p.h.log.Began())
	if err != nil {
		return 0, 0, err
	}
	if lo, err = p.bisect(ctx, 1, last, r); err != nil {
		return 0, 0, err
	}
	hi, err = p.closes(ctx, lo, last, r)
	return lo, hi, err
}

// closes returns a revision in [from, to] behind which nothing at or below r landed, given that this holds for to. It need not be the
// first: the closed revisions that writers know do not ascend with those of the member.
func (p *past) closes(ctx context.Context, from, to, r int64) (int64, error) {
	from, to = p.samples.closes(from, to, r)
	for from < to {
		mid := from + (to-from)/2
		clock, err := p.clockAt(ctx, mid)
		switch {
		case err != nil && !isCompacted(err):
			return 0, err
		case err == nil && clock.Closed >= r:
			to = mid
		default:
			from = mid + 1
		}
	}
	return to, nil
}

// clockAt is Clock, and remembers the answer.
func (p *past) clockAt(ctx context.Context, rev int64) (record.ClockRecord, error) {
	clock, err := p.Clock(ctx, rev)
	if err == nil {
		p.samples.add(rev, clock)
	}
	return clock, err
}

// bounds is bracket, with hi(r) as the index knows it, which it makes cover r: for those who read many revisions.
func (p *past) bounds(ctx context.Context, r int64) (lo, hi int64, err error) {
	r = max(r, firstClock)
	if err := p.h.check(r); err != nil {
		return 0, 0, err
	}
	if r >= p.h.log.Began() {
		return p.live(r)
	}
	x, err := p.cover(ctx, r)
	if err != nil {
		return 0, 0, err
	}
	lo, err = p.loOf(ctx, x, r)
	return lo, max(lo, x.hi(r)), err
}

// lo returns lo(r) without extending the index.
func (p *past) lo(ctx context.Context, r int64) (lo int64, err error) {
	r = max(r, firstClock)
	if err := p.h.check(r); err != nil {
		return 0, err
	}
	if r >= p.h.log.Began() {
		lo, _, err = p.live(r)
		return lo, err
	}
	x, err := p.known(r)
	if err != nil {
		return 0, err
	}
	if x.base <= r {
		return p.loOf(ctx, x, r)
	}
	lo, _, err = p.find(ctx, x, r)
	return lo, err
}

// hi returns hi(r) or a later revision, for any r not below one that bounds was asked for.
func (p *past) hi(r int64) (int64, error) {
	if r < p.h.log.Began() {
		return p.index.Load().hi(r), nil
	}
	_, hi, err := p.live(r)
	return hi, err
}

// live returns the bounds that the log knows, for r from its start on.
func (p *past) live(r int64) (lo, hi int64, err error) {
	lo, hi, ok := p.h.log.Lo(p.id, r)
	if !ok {
		return 0, 0, p.h.overtaken(r)
	}
	return lo, hi, nil
}

// loOf returns lo(r) by an index that covers r.
func (p *past) loOf(ctx context.Context, x *index, r int64) (int64, error) {
	from, to, grew := x.lo(r)
	if grew {
		return p.bisect(ctx, from, to, r)
	}
	// What came after the index is above the log's start.
	lo, _, err := p.live(p.h.log.Began())
	return max(lo, x.upTo), err
}

// known returns the index, or an empty one that covers nothing and begins where no stamp can follow that is below
// the log's start.
func (p *past) known(r int64) (*index, error) {
	if x := p.index.Load(); x != nil {
		return x, nil
	}
	_, hi, ok := p.h.log.Lo(p.id, p.h.log.Began())
	if !ok {
		return nil, p.h.overtaken(r)
	}
	return &index{after: hi, upTo: hi, base: none}, nil
}

// cover returns an index that covers r, for r below the log's start. One caller extends it at a time, the others
// wait for it.
func (p *past) cover(ctx context.Context, r int64) (*index, error) {
	for {
		if x := p.index.Load(); x != nil && x.base <= r {
			return x, nil
		}
		select {
		case p.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		err := p.extend(ctx, r)
		<-p.turn
		if err != nil && !isCompacted(err) {
			return nil, err
		}
	}
}

// extend makes the index cover r. It fails with a *MemberCompactedError if the member was compacted meanwhile.
func (p *past) extend(ctx context.Context, r int64) error {
	later, err := p.known(r)
	if err != nil || later.base <= r {
		return err
	}
	after, clock, err := p.find(ctx, later, r)
	if err != nil {
		return err
	}
	x := &index{after: after, upTo: later.after, base: clock}
	if err := p.readStamps(ctx, x); err != nil {
		return err
	}
	x.seal(later)
	for len(x.entries) > p.h.indexBound {
		x.thin()
	}
	p.index.Store(x)
	return nil
}

// readStamps fills x.
func (p *past) readStamps(ctx context.Context, x *index) error {
	if x.after >= x.upTo {
		return nil
	}
	parser := mergedlog.NewParser(p.id)
	return p.Watch(ctx, x.after+1, false, func(r mergedlog.MemberRevision) (bool, error) {
		rev := r.Rev
		evs, highest, err := parser.Parse(&r)
		if err != nil {
			return false, err
		}
		x.add(rev, highest, evs)
		if len(x.entries) > p.h.indexBound {
			x.thin()
		}
		return rev < x.upTo, nil
	})
}

// find returns lo(r) and the clock there, for an r below what the index later covers.
func (p *past) find(ctx context.Context, later *index, r int64) (lo, clock int64, err error) {
	if lo, err = p.bisect(ctx, 1, later.after, r); err != nil {
		return 0, 0, err
	}
	at, err := p.clockAt(ctx, lo)
	if isCompacted(err) {
		err = p.h.overtaken(r)
	}
	return lo, at.Highest, err
}

// bisect returns the last revision in [from, to] at which no stamp above r had come; from, if there is none. It is
// overtaken if that is compacted.
func (p *past) bisect(ctx context.Context, from, to, r int64) (int64, error) {
	gone := false
	from, to = p.samples.lo(from, to, r)
	for from < to {
		mid := to - (to-from)/2
		clock, err := p.clockAt(ctx, mid)
		switch {
		case isCompacted(err):
			from, gone = mid, true
		case err != nil:
			return 0, err
		case clock.Highest <= r:
			from, gone = mid, false
		default:
			to = mid - 1
		}
	}
	if gone {
		return 0, p.h.overtaken(r)
	}
	return from, nil
}

// rebase says whether a reader of what comes after stamp r can go on at the member revision rev, where the member
// turned out to be compacted: it can if everything before is at or below r, else it is overtaken. ok is false if
// the member was compacted again.
func (p *past) rebase(ctx context.Context, rev, r int64) (ok bool, err error) {
	clock, err := p.Clock(ctx, rev)
	switch {
	case isCompacted(err):
		return false, nil
	case err != nil:
		return false, err
	case clock.Highest > r:
		return false, p.h.overtaken(r)
	}
	return true, nil
}

// firstClock is where the clock of a new cluster stands; no stamp is at or below it. So what came before a member was
// initialised is before every lo.
const firstClock = 1

func isCompacted(err error) bool { return errors.As(err, new(*MemberCompactedError)) }
