package history

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// reader reads the events of one member with stamps in [from, to] in a range of keys. It has what there is of them
// up to the member revision pos, and has to go to target.
type reader struct {
	*past
	parser      *mergedlog.Parser
	key, end    []byte
	from, to    int64
	pos, target int64
	events      []*mergedlog.Event // in the member's order, unless somebody has sorted them
}

func newReader(p *past, pos, target int64, key, end []byte) *reader {
	return &reader{past: p, parser: mergedlog.NewParser(p.id), key: key, end: end, pos: pos, target: target}
}

// read goes on for about so many bytes of events, or to the target. Nothing is lost if it fails: it can be called
// again. A *MemberCompactedError is for rebase.
func (t *reader) read(ctx context.Context, bytes int64) error {
	return t.Watch(ctx, t.pos+1, true, func(r mergedlog.MemberRevision) (bool, error) {
		rev := r.Rev
		evs, _, err := t.parser.Parse(&r)
		switch {
		case errors.Is(err, mergedlog.ErrOverrun):
			return false, &MemberCompactedError{Rev: rev}
		case err != nil:
			return false, err
		}
		kept := t.events
		for i := range evs {
			e := &evs[i]
			switch {
			case e.Rev < t.from || e.Rev > t.to || !keyrange.Of(t.key, t.end).Contains(e.Kv.Key):
				continue
			case e.Bare():
				return false, &MemberCompactedError{Rev: rev}
			}
			kept = append(kept, e)
			bytes -= e.Size()
		}
		t.events, t.pos = kept, rev
		return rev < t.target && bytes > 0, nil
	})
}

// rebase takes the error of a read. If compaction took only stamps <= r, it moves pos there; if it is in doubt, it
// reports false, and the reader has to try again.
func (t *reader) rebase(ctx context.Context, err error, r int64) (bool, error) {
	var c *MemberCompactedError
	if !errors.As(err, &c) {
		return false, err
	}
	ok, err := t.past.rebase(ctx, c.Rev, r)
	if ok {
		t.pos = c.Rev
	}
	return ok, err
}

// page reads the next events, and sorts all that there are by stamp.
func (t *reader) page(ctx context.Context) error {
	for goal := t.pos + 1; t.pos < goal; {
		err := t.read(ctx, t.h.pageBytes)
		if err == nil {
			break
		}
		if _, err = t.rebase(ctx, err, t.from-1); err != nil {
			return err
		}
	}
	slices.SortStableFunc(t.events, func(a, b *mergedlog.Event) int { return cmp.Compare(a.Rev, b.Rev) })
	return nil
}

// pass removes the events of the stamp that all before it have gone, and appends them to evs.
func (t *reader) pass(stamp int64, evs []*mergedlog.Event) []*mergedlog.Event {
	t.from = stamp + 1
	n := 0
	for n < len(t.events) && t.events[n].Rev == stamp {
		n++
	}
	evs = append(evs, t.events[:n]...)
	clear(t.events[:n])
	t.events = t.events[n:]
	return evs
}
