package history

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// KeyState is what a member says of a key at one of its member revisions.
type KeyState struct {
	Kv     *mvccpb.KeyValue // as it is stored; nil: there is none
	Slot   int64            // the clock of its slot
	Fence  int64
	Clock  int64
	Locked bool // the slot is, or the whole member

	// Changed is the last revision that has changed the slot's clock, the fence, or the lock of the member; 0: none. If the key was ever
	// deleted, then not behind it.
	Changed int64
}

const (
	// fewChanges is how many changes of a key are passed one by one before the search is by bisection.
	fewChanges = 2
	// maxSteps bounds how many revisions are looked at one by one.
	maxSteps = 64
)

// atKey returns a member revision at which a key is as it is at the closed revision r: everything at or below r, and nothing above it, has
// landed on the key. It is at or above lo(r), so that no compaction takes it before r. false: it cannot be told like this.
//
// Up to lo(r), which is as far as the member's clock is at or below r, nothing above r has landed at all. Behind it, what is there at a
// member revision says what has landed on the key, because on one key stamps land in ascending order:
//
//   - a value with a stamp above r: nothing at or below r lands any more. One at or below r: nothing above r has landed.
//   - no value, and neither the slot's clock nor the fence is above r: nothing above r has landed, or its delete would have raised one of
//     them. One of them is above r: nothing at or below r lands any more.
//
// The latter holds only where the slot and the member are free. A transaction that has locked them may have deleted the key in one of its
// parts, with a stamp that only the last one leaves in the clock; and may have taken a stamp before the fence was raised, which does not
// stop it. It has taken it after it had the locks: so one that comes later has a later stamp.
func (p *past) atKey(ctx context.Context, r int64, key []byte) (rev int64, ok bool, err error) {
	r = max(r, firstClock)
	if err := p.h.check(r); err != nil {
		return 0, false, err
	}
	s := search{past: p, r: r, key: key, slot: p.h.cfg.SlotOf(key), from: 1}
	if r >= p.h.log.Began() {
		s.from, s.to, err = p.live(r)
	} else {
		_, s.to, err = p.live(p.h.log.Began())
	}
	if err != nil {
		return 0, false, err
	}
	return s.run(ctx)
}

// search looks for a member revision: at from, nothing above r has landed on the key; behind to, nothing at or below r will.
type search struct {
	*past
	r    int64
	key  []byte
	slot int

	from, to int64
	gone     bool // from is compacted, and nobody knows what was there
}

func (s *search) run(ctx context.Context) (int64, bool, error) {
	// Most keys have not changed since, or once: this is enough then.
	for i, to := 0, int64(0); i < fewChanges && s.from < s.to && s.to != to; i++ {
		to = s.to
		if done, _, err := s.probe(ctx, to); err != nil || done {
			return s.from, true, err
		}
	}
	for s.to-s.from > 1 {
		mid := s.from + (s.to-s.from)/2
		done, known, err := s.around(ctx, mid)
		switch {
		case err != nil || done:
			return s.from, true, err
		case !known:
			return s.steps(ctx)
		}
	}
	return s.steps(ctx)
}

// around probes a revision, or one near it where that says nothing.
func (s *search) around(ctx context.Context, mid int64) (done, known bool, err error) {
	if done, known, err = s.probe(ctx, mid); known || err != nil {
		return done, known, err
	}
	for off := int64(1); off < s.to-s.from; off *= 2 {
		for _, near := range []int64{mid + off, mid - off} {
			if near <= s.from || near >= s.to {
				continue
			}
			if done, known, err = s.probe(ctx, near); known || err != nil {
				return done, known, err
			}
		}
	}
	return false, false, nil
}

// probe looks at a revision and moves from or to. known is false if it says nothing new. done: it is the one that is looked for, and from is
// there.
func (s *search) probe(ctx context.Context, rev int64) (done, known bool, err error) {
	state, err := s.State(ctx, rev, s.key, s.slot)
	if isCompacted(err) {
		s.from, s.gone = max(s.from, rev), true
		return false, true, nil
	}
	if err != nil {
		return false, false, err
	}
	if state.Kv != nil {
		h, _, err := record.ParseHeader(state.Kv.Value)
		switch {
		case err != nil:
			return false, false, s.foreign(state.Kv, err)
		case h.Stamp > s.r:
			s.to = state.Kv.ModRevision - 1
			return false, true, nil
		}
	}
	closed := !state.Locked && (state.Slot > s.r || state.Fence > s.r)
	switch {
	case state.Clock <= s.r || state.Kv != nil || !state.Locked && !closed: // nothing above r has landed
		s.from, s.gone = rev, false
		return rev == s.to || closed && state.Clock > s.r, true, nil
	case closed && rev < s.to:
		s.to = rev
		return false, true, nil
	}
	return false, false, nil
}

// steps looks at what is left, from the end: the key is as it is at r behind its last change at or below r, and before the next one.
func (s *search) steps(ctx context.Context) (int64, bool, error) {
	if s.gone {
		if s.to-s.from != 1 {
			return 0, false, nil
		}
		// The member is compacted at to, which is as good if nothing above r has come to it by then.
		clock, err := s.Clock(ctx, s.to)
		if isCompacted(err) {
			return 0, false, nil
		}
		if err == nil && clock.Highest > s.r {
			err = s.h.overtaken(s.r)
		}
		return s.to, true, err
	}
	if s.to-s.from > maxSteps {
		return 0, false, nil
	}
	last := max(s.from, s.to)
	for rev := s.to; rev > s.from; rev-- {
		_, stamp, err := s.changeAt(ctx, rev, s.key)
		switch {
		case isCompacted(err):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		case stamp > s.r:
			last = rev - 1
		case stamp > 0:
			return last, true, nil
		}
	}
	return last, true, nil
}

// changeAt returns what a member revision shows of the change of a key, with its stamp; 0: there was none.
func (p *past) changeAt(ctx context.Context, rev int64, key []byte) (shown mergedlog.MemberRevision, stamp int64, err error) {
	if shown, err = p.Change(ctx, rev, key); err != nil {
		return shown, 0, err
	}
	parsed := mergedlog.MemberRevision{Rev: rev}
	for _, ev := range shown.Events {
		parsed.Events = append(parsed.Events, &mvccpb.Event{Type: ev.Type, Kv: copyOf(ev.Kv)}) // the parser changes them
	}
	evs, _, err := mergedlog.NewKeyParser(p.id).Parse(&parsed)
	if err != nil || len(evs) == 0 {
		return shown, 0, err
	}
	return shown, evs[0].Rev, nil
}

func (p *past) foreign(kv *mvccpb.KeyValue, err error) error {
	return fmt.Errorf("%w: key %q at revision %d: %w", mergedlog.ErrForeignWrite, kv.Key, kv.ModRevision, err)
}
