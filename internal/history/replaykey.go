package history

import (
	"cmp"
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

const (
	// maxKeySteps bounds the reads of one key, one after the other: history is read faster than a key with more changes.
	maxKeySteps = 512
	// keyBytes bounds what is kept of one key.
	keyBytes = 1 << 20
)

// ReplayKey is Replay for one key, by point reads: it asks for nothing but the key's own changes, the latest first. false: there are too
// many, or compaction has come in between, and fn was not called: Replay may be tried.
func (h *History) ReplayKey(ctx context.Context, key []byte, from, to int64, fn func(evs []*mergedlog.Event) error) (ok bool, err error) {
	from = max(from, 1)
	switch {
	case from > to:
		return true, nil
	case to > h.log.Closed():
		return true, mergedlog.ErrNotClosed
	}
	var evs []*mergedlog.Event
	for _, id := range h.cfg.MembersOf(key, nil) {
		w := &walk{past: h.pasts[id], key: key, slot: h.cfg.SlotOf(key), from: from, to: to}
		if ok, err := w.run(ctx); err != nil || !ok {
			return ok, err
		}
		evs = append(evs, w.events...)
	}
	for len(evs) > 0 {
		n := 1
		for n < len(evs) && evs[n].Rev == evs[0].Rev {
			n++
		}
		if n > 1 {
			mergedlog.JoinParts(evs[:n])
		}
		if err := fn(evs[:n]); err != nil {
			return true, err
		}
		evs = evs[n:]
	}
	return true, nil
}

// walk goes through the changes of a key with stamps in [from, to], from the last one back. On one key, stamps ascend: the first that is
// below from is the end.
//
// A put is found by the pair that it has left, and leads to what was before it. Where there is no pair, there may have been a delete. It has
// changed the clock of the slot, the fence, or the lock of the member, in its own revision: so the last revision that has changed one of
// these is the last that may have deleted the key.
type walk struct {
	*past
	key      []byte
	slot     int
	from, to int64

	rev    int64                     // everything behind it was seen
	last   int64                     // stamp of the change that comes right behind rev; 0: none does
	open   *mergedlog.MemberRevision // that change, if it is wanted, but for its previous value
	events []*mergedlog.Event
	bytes  int64
}

func (w *walk) run(ctx context.Context) (ok bool, err error) {
	if err := w.h.check(max(w.from-1, firstClock)); err != nil {
		return false, err
	}
	if _, w.rev, err = w.live(max(w.to, w.h.log.Began())); err != nil {
		return false, err
	}
	for range maxKeySteps {
		done, err := w.step(ctx)
		switch {
		case isCompacted(err) && w.last >= w.from:
			return false, w.h.overtaken(w.from - 1) // the change that is compacted behind is one of those that were asked for
		case isCompacted(err):
			return false, nil
		case err != nil:
			return false, err
		case w.bytes > keyBytes:
			return false, nil
		case done:
			slices.SortStableFunc(w.events, func(a, b *mergedlog.Event) int { return cmp.Compare(a.MemberRev, b.MemberRev) })
			return true, nil
		}
	}
	return false, nil
}

// step looks at the key at rev, and goes back by one change.
func (w *walk) step(ctx context.Context) (done bool, err error) {
	kv, err := w.Point(ctx, w.rev, w.key)
	if err != nil {
		return false, err
	}
	if err := w.close(kv); err != nil {
		return false, err
	}
	if kv == nil {
		return w.deleted(ctx)
	}
	h, _, err := record.ParseHeader(kv.Value)
	if err != nil {
		return false, w.foreign(kv, err)
	}
	w.note(h.Stamp, mergedlog.MemberRevision{Rev: kv.ModRevision, Events: []*mvccpb.Event{{Kv: copyOf(kv)}}})
	w.rev = kv.ModRevision - 1
	if kv.CreateRevision == kv.ModRevision {
		err = w.close(nil)
	}
	return w.last < w.from, err
}

// deleted looks for what has deleted a key that is not there at rev.
func (w *walk) deleted(ctx context.Context) (done bool, err error) {
	s, err := w.State(ctx, w.rev, w.key, w.slot)
	if err != nil {
		return false, err
	}
	if s.Clock < w.from || !s.Locked && s.Slot < w.from && s.Fence < w.from || s.Changed == 0 {
		return true, nil
	}
	w.last = 0
	shown, stamp, err := w.changeAt(ctx, s.Changed, w.key)
	if err != nil {
		return false, err
	}
	if stamp > 0 {
		w.note(stamp, shown)
	}
	w.rev = s.Changed - 1
	return stamp > 0 && stamp < w.from, nil
}

// note takes a change.
func (w *walk) note(stamp int64, shown mergedlog.MemberRevision) {
	w.last = stamp
	if w.from <= stamp && stamp <= w.to {
		w.open = &shown
	}
}

// close completes the change that is open by what was there before it.
func (w *walk) close(prev *mvccpb.KeyValue) error {
	if w.open == nil {
		return nil
	}
	for _, ev := range w.open.Events {
		if record.KindOf(ev.Kv.Key) == record.User && prev != nil {
			ev.PrevKv = copyOf(prev)
		}
	}
	evs, _, err := mergedlog.NewKeyParser(w.id).Parse(w.open)
	if err != nil {
		return err
	}
	w.open = nil
	for i := range evs {
		w.events = append(w.events, &evs[i])
		w.bytes += evs[i].Size()
	}
	return nil
}

// copyOf is a pair of its own, for a parser to change; it shares the bytes.
func copyOf(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}
