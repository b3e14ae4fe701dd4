package mergedlog

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// mark is what one stamp left in a member revision.
type mark struct {
	stamp  int64
	reason record.Reason // 0: an effect, that is the header of a value or the clock of a slot
}

// landed says that the stamp's write took effect, if only by finding nothing to change.
func (m mark) landed() bool {
	return m.reason == 0 || m.reason == record.NoOp || m.reason == record.Exclusive || m.reason == record.Parted
}

// slotClock is a slot's clock as a member revision set it.
type slotClock struct {
	slot  int
	stamp int64
}

// parser turns one native member revision at a time into marks and events. Everything but the events is
// overwritten by the next parse.
type parser struct {
	member   int
	slotOf   func(key []byte) int
	onRecord func(member int, rev int64, kv *mvccpb.KeyValue)
	bare     bool // previous values may be missing
	some     bool // and so may events

	rev     int64
	empty   bool
	highest int64   // stamp, of all marks and the clock record
	marks   []mark  // ascending, each stamp once
	evs     []Event // ascending stamps, each of which is in marks; in the member's order within a stamp

	fenced       bool // the revision set the fence record
	epoch, fence int64

	slots     []slotClock         // ascending, once the records are read
	created   map[string]struct{} // keys that evs[:indexed] created, once a delete has asked
	indexed   int                 // events that created knows of
	looked    int                 // entries looked at for deletes: linear in the events, says the test
	locks     []Lock              // locks that changed hands
	records   int                 // mark records in the revision
	exclusive int64               // stamp of a mark record with reason Exclusive or Parted
	part      record.Part         // of a mark record with reason Parted
}

// parse reads one revision. Reserved records come first: the clock of a slot says which stamp a delete has.
func (p *parser) parse(r *MemberRevision) error {
	*p = parser{
		member: p.member, slotOf: p.slotOf, onRecord: p.onRecord, bare: p.bare, some: p.some,
		rev: r.Rev, empty: len(r.Events) == 0, marks: p.marks[:0], slots: p.slots[:0], locks: p.locks[:0],
	}
	users := 0
	for _, ev := range r.Events {
		kind := record.KindOf(ev.Kv.Key)
		if kind == record.User {
			users++
			continue
		}
		if err := p.parseRecord(kind, ev); err != nil {
			return p.foreign(ev, err)
		}
	}
	slices.SortFunc(p.slots, bySlot)
	if users > 0 {
		p.evs = make([]Event, 0, users)
		for _, ev := range r.Events {
			if record.KindOf(ev.Kv.Key) != record.User {
				continue
			}
			if err := p.parseEvent(ev); err != nil {
				return err
			}
		}
	}
	p.sort()
	if p.part.Of > 0 && !p.some {
		return p.order()
	}
	return nil
}

// order gives the events of a part their places in its transaction.
func (p *parser) order() error {
	evs := p.evs
	for _, r := range p.part.Runs {
		if len(evs) < r.Events {
			return fmt.Errorf("%w: part %d of stamp %d has fewer events than it says", ErrForeignWrite, p.part.Index, p.part.Stamp)
		}
		for i := range evs[:r.Events] {
			evs[i].Order = r.Op
		}
		evs = evs[r.Events:]
	}
	if len(evs) > 0 || p.records != 1 {
		return fmt.Errorf("%w: part %d of stamp %d has more events than it says", ErrForeignWrite, p.part.Index, p.part.Stamp)
	}
	return nil
}

func (p *parser) parseRecord(kind record.Kind, ev *mvccpb.Event) (err error) {
	switch kind {
	case record.Slot:
		var stamp int64
		slot := record.SlotOf(ev.Kv.Key)
		// A locked slot's clock is infinite and no stamp; one that was never set and is given back is zero.
		if stamp, err = record.ParseNumber(ev.Kv.Value); err == nil && stamp > 0 && stamp < math.MaxInt64 {
			p.slots = append(p.slots, slotClock{slot, stamp})
			err = p.mark(stamp, 0)
		}
		if err == nil {
			err = p.parseLock(slot, ev)
		}
	case record.Mark:
		var m mark
		if m.stamp, m.reason, err = record.ParseMark(ev.Kv.Value); err == nil {
			p.records++
			switch m.reason {
			case record.Exclusive:
				p.exclusive = m.stamp
			case record.Parted:
				p.exclusive = m.stamp
				if p.part, err = record.ParsePart(ev.Kv.Value); err != nil {
					return err
				}
			}
			if err = p.mark(m.stamp, m.reason); err == nil {
				err = p.furtherMarks(ev.Kv.Value, m.reason)
			}
		}
	case record.Clock:
		var stamp int64
		_, stamp, err = record.ParsePair(ev.Kv.Value)
		p.highest = max(p.highest, stamp)
	case record.Fence:
		p.fenced = true
		p.epoch, p.fence, err = record.ParsePair(ev.Kv.Value)
	case record.Lock:
		return p.parseLock(Whole, ev)
	case record.Compacted:
		if p.onRecord != nil && ev.Type == mvccpb.Event_PUT {
			p.onRecord(p.member, p.rev, ev.Kv)
		}
	case record.Lease:
		if p.onRecord != nil {
			p.onRecord(p.member, p.rev, ev.Kv)
		}
	}
	return err
}

// parseLock notes who holds a slot, or the whole member, from this revision on.
func (p *parser) parseLock(slot int, ev *mvccpb.Event) error {
	h, held, err := record.ParseHolder(ev.Kv.Value)
	if err == nil {
		p.locks = append(p.locks, Lock{Member: p.member, Slot: slot, Held: held, Holder: h})
	}
	return err
}

// furtherMarks notes the other stamps of a batch that was refused as a whole.
func (p *parser) furtherMarks(value []byte, reason record.Reason) error {
	rest, err := record.FurtherStamps(value, reason)
	for ; err == nil && len(rest) > 0; rest = rest[8:] {
		var stamp int64
		if stamp, err = record.ParseNumber(rest[:8]); err == nil {
			err = p.mark(stamp, reason)
		}
	}
	return err
}

// mark notes that the stamp reached the member.
func (p *parser) mark(stamp int64, reason record.Reason) error {
	if stamp <= 0 || stamp == math.MaxInt64 || reason > record.Parted {
		return fmt.Errorf("%w: mark of stamp %d, reason %d", record.ErrMalformed, stamp, reason)
	}
	p.marks = append(p.marks, mark{stamp, reason})
	p.highest = max(p.highest, stamp)
	return nil
}

// parseEvent turns the change of a user key into an event, rewriting it in place.
func (p *parser) parseEvent(ev *mvccpb.Event) error {
	e := Event{Type: ev.Type, Kv: ev.Kv, PrevKv: ev.PrevKv, Member: p.member, MemberRev: p.rev}
	if ev.Type == mvccpb.Event_DELETE {
		e.Rev = p.deleteStamp(ev.Kv.Key)
		if e.Rev == 0 {
			return p.foreign(ev, fmt.Errorf("%w: delete without a stamp", record.ErrMalformed))
		}
		e.Kv.ModRevision = e.Rev
		if ev.PrevKv == nil && p.createdHere(ev.Kv.Key) {
			e.NativeCreate = p.rev
			p.evs = append(p.evs, e)
			return nil
		}
	} else {
		e.NativeCreate = ev.Kv.CreateRevision
		created := ev.Kv.CreateRevision == ev.Kv.ModRevision
		if err := record.ToUser(ev.Kv); err != nil {
			return p.foreign(ev, err)
		}
		e.Rev = ev.Kv.ModRevision
		if err := p.mark(e.Rev, 0); err != nil {
			return p.foreign(ev, err)
		}
		if created {
			e.PrevKv = nil
			p.evs = append(p.evs, e)
			return nil
		}
	}
	if ev.PrevKv == nil && p.bare {
		p.evs = append(p.evs, e)
		return nil
	}
	if ev.PrevKv == nil {
		return fmt.Errorf("%w: previous value of key %q at revision %d is gone", ErrOverrun, ev.Kv.Key, p.rev)
	}
	if err := record.ToUser(ev.PrevKv); err != nil {
		return p.foreign(ev, err)
	}
	p.evs = append(p.evs, e)
	return nil
}

// createdHere reports whether an earlier event of the member revision created the key, so that there was nothing before it. No
// revision is written any more that puts and deletes a key. One may delete any number of keys, so that each of them must not cost a
// look at all the others.
func (p *parser) createdHere(key []byte) bool {
	for ; p.indexed < len(p.evs); p.indexed++ {
		p.looked++
		if e := &p.evs[p.indexed]; e.NativeCreate == p.rev {
			if p.created == nil {
				p.created = map[string]struct{}{}
			}
			p.created[string(e.Kv.Key)] = struct{}{}
		}
	}
	_, ok := p.created[string(key)]
	return ok
}

// deleteStamp finds the stamp of a delete: the clock of the key's slot, or that of the exclusive transaction
// that has the member revision for itself. 0: none.
func (p *parser) deleteStamp(key []byte) int64 {
	if len(p.slots) > 0 {
		i, found := slices.BinarySearchFunc(p.slots, slotClock{slot: p.slotOf(key)}, func(a, b slotClock) int {
			p.looked++
			return bySlot(a, b)
		})
		if found {
			return p.slots[i].stamp
		}
	}
	if p.records == 1 {
		return p.exclusive
	}
	return 0
}

func bySlot(a, b slotClock) int { return cmp.Compare(a.slot, b.slot) }

// sort brings marks and events into the order of stamps. A transaction shows its stamp once for every effect;
// of these and a mark record the record stays, as it says more.
func (p *parser) sort() {
	slices.SortFunc(p.marks, func(a, b mark) int {
		return cmp.Or(cmp.Compare(a.stamp, b.stamp), cmp.Compare(b.reason, a.reason))
	})
	p.marks = slices.CompactFunc(p.marks, func(a, b mark) bool { return a.stamp == b.stamp })
	if byStamp := func(a, b Event) int { return cmp.Compare(a.Rev, b.Rev) }; !slices.IsSortedFunc(p.evs, byStamp) {
		slices.SortStableFunc(p.evs, byStamp)
	}
}

func (p *parser) foreign(ev *mvccpb.Event, err error) error {
	return fmt.Errorf("%w: key %q at revision %d: %w", ErrForeignWrite, ev.Kv.Key, p.rev, err)
}
