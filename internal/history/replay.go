package history

import (
	"context"
	"math"

	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Replay calls fn with the events of a range of keys, in etcd's convention, with stamps in [from, to], in order, all
// of a stamp in one call. fn may keep the events but not the slice, and may take its time. Replay fails with fn's
// error; with mergedlog.ErrNotClosed if to is not closed; and with a *watchhub.CompactedError if compaction has
// overtaken it, possibly after some calls of fn, which were right.
func (h *History) Replay(ctx context.Context, key, end []byte, from, to int64, fn func(evs []*mergedlog.Event) error) error {
	from = max(from, 1)
	switch {
	case from > to:
		return nil
	case to > h.log.Closed():
		return mergedlog.ErrNotClosed
	}
	m, err := h.merge(ctx, key, end, from, to)
	if err != nil {
		return err
	}
	var evs []*mergedlog.Event
	for {
		stamp, err := m.next(ctx)
		if err != nil || stamp > to {
			return err
		}
		evs = evs[:0]
		for _, t := range m {
			evs = t.pass(stamp, evs)
		}
		if n := len(evs); n > 0 && (evs[0].Member != evs[n-1].Member || evs[0].MemberRev != evs[n-1].MemberRev) {
			mergedlog.JoinParts(evs)
		}
		if err := fn(evs); err != nil {
			return err
		}
	}
}

// merge joins what the members concerned have of one replay.
type merge []*reader

// merge prepares a reader for every member that a range concerns.
func (h *History) merge(ctx context.Context, key, end []byte, from, to int64) (merge, error) {
	var m merge
	for _, id := range h.cfg.MembersOf(key, end) {
		t := newReader(h.pasts[id], 0, 0, key, end)
		t.from, t.to = from, to
		m = append(m, t)
	}
	return m, m.each(ctx, func(ctx context.Context, t *reader) (err error) {
		if t.pos, _, err = t.bounds(ctx, from-1); err != nil {
			return err
		}
		t.target, err = t.hi(to)
		return err
	})
}

// next returns the lowest stamp that is left, when all its events are there; math.MaxInt64 if none is.
func (m merge) next(ctx context.Context) (int64, error) {
	for {
		stamp := m.lowest()
		var behind merge
		for _, t := range m {
			hi := t.target
			if stamp < math.MaxInt64 && t.pos < hi {
				h, err := t.hi(stamp)
				if err != nil {
					return 0, err
				}
				hi = min(hi, h)
			}
			if t.pos < hi {
				behind = append(behind, t)
			}
		}
		if len(behind) == 0 {
			return stamp, nil
		}
		if err := behind.each(ctx, func(ctx context.Context, t *reader) error { return t.page(ctx) }); err != nil {
			return 0, err
		}
	}
}

// lowest returns the lowest stamp that was read and is left, complete or not.
func (m merge) lowest() int64 {
	stamp := int64(math.MaxInt64)
	for _, t := range m {
		if len(t.events) > 0 {
			stamp = min(stamp, t.events[0].Rev)
		}
	}
	return stamp
}

// each runs do for all readers at once.
func (m merge) each(ctx context.Context, do func(ctx context.Context, t *reader) error) error {
	if len(m) == 1 {
		return do(ctx, m[0])
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range m {
		g.Go(func() error { return do(ctx, t) })
	}
	return g.Wait()
}
