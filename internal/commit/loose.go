package commit

import (
	"context"
	"fmt"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Stamp is a stamp that was taken for a request which does not travel in a lane. It counts as held by this process until it
// is landed or surrendered.
type Stamp struct{ Rev, Epoch int64 }

// Take takes one stamp from the clock. Every stamp taken goes to Landed or Surrender.
func (p *Pipeline) Take(ctx context.Context) (Stamp, error) {
	first, epoch, err := p.cfg.Clock.Take(ctx, 1)
	if err != nil {
		return Stamp{}, err
	}
	p.hold(first, epoch, 1)
	return Stamp{first, epoch}, nil
}

// Landed says that a stamp has left its mark on a member.
func (p *Pipeline) Landed(s Stamp) { p.release(stamp{s.Rev, s.Epoch}) }

// Surrender gives up a stamp that has left no mark on any member and never will: some lane marks it.
func (p *Pipeline) Surrender(s Stamp) { p.surrender(0, stamp{s.Rev, s.Epoch}) }

// SurrenderAll gives up the stamps first, …, first+k−1 of an epoch, which nobody has used.
func (p *Pipeline) SurrenderAll(first, k, epoch int64) {
	stamps := make([]stamp, k)
	for i := range stamps {
		stamps[i] = stamp{first + int64(i), epoch}
	}
	p.surrender(0, stamps...)
}

// Settle finds out what became of a stamp that was sent to a member, tracked in the doubts, and whose answer err does not say:
// from the member's log, as section 8 has it. It fails with err itself if the server refused the request, so that the stamp is
// to be surrendered; with ErrUnknown if it can no longer be found out.
func (p *Pipeline) Settle(member int, s Stamp, err error) (mergedlog.Outcome, error) {
	if Definite(err) {
		return mergedlog.Outcome{}, err
	}
	f := &flight{l: p.lanes[member], epoch: s.Epoch}
	find := func() (mergedlog.Outcome, error) { return f.outcome(s.Rev, s.Rev) }
	if OutOfSpace(err) {
		find = func() (mergedlog.Outcome, error) { return f.decided(s.Rev) }
	}
	out, lost := find()
	switch {
	case lost != nil:
		return out, p.unknown(lost)
	case out.Kind == 0:
		return out, err
	}
	return out, nil
}

// unknown is the error of an operation whose outcome could not be found out.
func (p *Pipeline) unknown(err error) error {
	if why := p.ended(); why != nil && p.ctx.Err() != nil {
		return fmt.Errorf("%w: %s", ErrUnknown, why.Error()) // it is not ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
