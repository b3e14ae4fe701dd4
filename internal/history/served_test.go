package history

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

var errPastTheEnd = errors.New("watched for a revision that does not exist")

// Watch implements Member. Compaction in the middle ends it, sometimes only after some revisions that were read
// before.
func (m *member) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	if c := m.serve(); from < c {
		return &MemberCompactedError{Rev: c}
	}
	for rev := from; rev <= m.rev(); rev++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if rev < 2 {
			continue
		}
		c := m.serve()
		if rev < c && rev%3 == 0 {
			return &MemberCompactedError{Rev: c}
		}
		if more, err := fn(m.deliverable(rev, prevKV && rev > c)); !more || err != nil {
			return err
		}
	}
	return errPastTheEnd
}

// Clock implements Member.
func (m *member) Clock(ctx context.Context, rev int64) (record.ClockRecord, error) {
	if err := ctx.Err(); err != nil {
		return record.ClockRecord{}, err
	}
	if c := m.serve(); rev < c {
		return record.ClockRecord{}, &MemberCompactedError{}
	}
	return m.clocks[rev], nil
}

// changesOf is what has changed last, up to the revision that has these events.
func (m *member) changesOf(rev int64, evs []*mvccpb.Event) map[int]int64 {
	changed := maps.Clone(m.shown[rev-1].changed)
	if changed == nil {
		changed = map[int]int64{}
	}
	for _, ev := range evs {
		switch record.KindOf(ev.Kv.Key) {
		case record.Slot:
			changed[record.SlotOf(ev.Kv.Key)] = rev
		case record.Fence, record.Lock:
			changed[mergedlog.Whole] = rev
		}
	}
	return changed
}

// Point implements Member.
func (m *member) Point(ctx context.Context, rev int64, key []byte) (*mvccpb.KeyValue, error) {
	s, err := m.State(ctx, rev, key, testSlot(key))
	return s.Kv, err
}

// State implements Member.
func (m *member) State(ctx context.Context, rev int64, key []byte, slot int) (KeyState, error) {
	if err := ctx.Err(); err != nil {
		return KeyState{}, err
	}
	if c := m.serve(); rev < c {
		return KeyState{}, &MemberCompactedError{}
	}
	at := m.shown[rev]
	clock := at.slots[slot]
	return KeyState{Kv: at.keys[string(key)], Slot: clock, Fence: at.fence, Clock: m.clocks[rev].Highest, Locked: at.whole || clock == math.MaxInt64, Changed: max(at.changed[slot], at.changed[mergedlog.Whole])}, nil
}

// Change implements Member.
func (m *member) Change(ctx context.Context, rev int64, key []byte) (r mergedlog.MemberRevision, err error) {
	if err := ctx.Err(); err != nil {
		return r, err
	}
	if c := m.serve(); rev-1 < c {
		return r, &MemberCompactedError{}
	}
	r.Rev = rev
	for _, ev := range m.deliverable(rev, false).Events {
		if bytes.Equal(ev.Kv.Key, key) || record.KindOf(ev.Kv.Key) == record.Manifest {
			r.Events = append(r.Events, ev)
		}
	}
	return r, nil
}
