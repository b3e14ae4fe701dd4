package mergedlog

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// mark is what became of one stamp in a member revision.
type mark struct {
	stamp int64
	kind  manifest.Kind
}

// parser turns one native member revision at a time into marks and events. Everything but the events is
// overwritten by the next parse.
type parser struct {
	member   int
	onRecord func(member int, rev int64, kv *mvccpb.KeyValue)
	bare     bool // previous values may be missing
	some     bool // and so may events, and the manifests of puts

	rev      int64
	empty    bool
	manifest manifest.Decoder // of all manifests of the revision
	highest  int64            // stamp
	marks    []mark           // ascending, each stamp once
	evs      []Event          // ascending stamps, each of which is in marks; in the member's order within a stamp

	fenced       bool // the revision set the fence record
	epoch, fence int64

	locks     []Lock              // locks that changed hands
	followed  bool                // some record of the revision is one that everybody follows
	exclusive int64               // stamp of what has the revision for itself; 0: nothing does
	part      *manifest.Entry     // the part that does
	created   map[string]struct{} // keys that evs[:indexed] created, once a delete has asked
	indexed   int                 // events that created knows of
	looked    int                 // names looked at for events, and events for deletes: linear in both, says the test
}

// parse reads one revision. Manifests come first: they name what the events belong to.
func (p *parser) parse(r *MemberRevision) error {
	*p = parser{
		member: p.member, onRecord: p.onRecord, bare: p.bare, some: p.some,
		rev: r.Rev, empty: len(r.Events) == 0, manifest: p.manifest, marks: p.marks[:0], locks: p.locks[:0],
	}
	p.manifest.Reset()
	users := 0
	for _, ev := range r.Events {
		kind := record.KindOf(ev.Kv.Key)
		if kind == record.User {
			users++
			continue
		}
		p.followed = p.followed || record.Followed(ev.Kv.Key)
		if err := p.parseRecord(kind, ev); err != nil {
			return p.foreign(ev, err)
		}
	}
	if !p.followed && !p.empty && !p.some {
		return p.foreign(r.Events[0], fmt.Errorf("%w: nothing in the revision is a record that metaetcd always writes", record.ErrMalformed))
	}
	if err := p.readManifests(); err != nil {
		return err
	}
	if err := p.parseEvents(r.Events, users); err != nil {
		return err
	}
	p.sort()
	return nil
}

func (p *parser) parseRecord(kind record.Kind, ev *mvccpb.Event) (err error) {
	switch kind {
	case record.Manifest, record.Nested:
		return p.manifest.Decode(ev.Kv.Value)
	case record.Slot:
		if _, err = record.ParseNumber(ev.Kv.Value); err == nil {
			err = p.parseLock(record.SlotOf(ev.Kv.Key), ev)
		}
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

// readManifests takes the stamps off the manifests.
func (p *parser) readManifests() error {
	entries := p.manifest.Entries
	for i := range entries {
		e := &entries[i]
		p.marks = append(p.marks, mark{e.Stamp, e.Kind})
		p.highest = max(p.highest, e.Stamp)
		switch e.Kind {
		case manifest.Parted:
			p.part = e
			p.exclusive = e.Stamp
		case manifest.Exclusive:
			p.exclusive = e.Stamp
		}
	}
	if p.exclusive != 0 && len(entries) != 1 {
		return fmt.Errorf("%w: revision %d has %d stamps beside %d, which is to be alone", ErrForeignWrite, p.rev, len(entries)-1, p.exclusive)
	}
	return nil
}

// parseEvents makes events of the changes of users' keys. They come in the order of the names, but for names that changed nothing.
func (p *parser) parseEvents(evs []*mvccpb.Event, users int) error {
	if users > 0 {
		p.evs = make([]Event, 0, users)
	}
	at := cursor{entries: p.manifest.Entries}
	for _, ev := range evs {
		if record.KindOf(ev.Kv.Key) != record.User {
			continue
		}
		stamp, order := int64(0), 0
		switch e, n := at.find(p, ev); {
		case n == nil && p.some && ev.Type == mvccpb.Event_PUT: // its header tells its stamp
		case n == nil:
			return p.foreign(ev, fmt.Errorf("%w: no manifest names it, or not in this order", record.ErrMalformed))
		case p.some: // the order of a key's events is that of their revisions
			stamp = e.Stamp
		default:
			stamp, order = e.Stamp, n.Op
		}
		if err := p.parseEvent(ev, stamp, order); err != nil {
			return err
		}
	}
	if at.rest(); at.missing != nil && !p.some {
		return fmt.Errorf("%w: the put of key %q at revision %d is gone", ErrOverrun, at.missing.Key, p.rev)
	}
	return nil
}

// cursor goes through the names of a revision's entries.
type cursor struct {
	entries []manifest.Entry
	entry   int
	name    int
	put     bool           // the name under the cursor has had its event
	missing *manifest.Name // of a put without an event: some etcds lose it where they are compacted
}

// find returns the name of an event, which is not before that of the last one, and its entry. nil: there is none.
func (c *cursor) find(p *parser, ev *mvccpb.Event) (*manifest.Entry, *manifest.Name) {
	for ; c.entry < len(c.entries); c.next() {
		e := &c.entries[c.entry]
		if c.name >= len(e.Names) {
			continue
		}
		p.looked++
		n := &e.Names[c.name]
		deletes := ev.Type == mvccpb.Event_DELETE
		switch {
		case n.Touch == manifest.Put && !c.put && !deletes && n.Names(ev.Kv.Key):
			c.put = true
			return e, n
		case n.Touch == manifest.Deleted && deletes && n.Names(ev.Kv.Key):
			return e, n
		}
	}
	return nil, nil
}

// rest goes through the names that are left.
func (c *cursor) rest() {
	for c.entry < len(c.entries) {
		c.next()
	}
}

func (c *cursor) next() {
	if names := c.entries[c.entry].Names; c.name < len(names) && names[c.name].Touch == manifest.Put && !c.put {
		c.missing = &names[c.name]
	}
	if c.name++; c.name >= len(c.entries[c.entry].Names) {
		c.entry, c.name = c.entry+1, 0
	}
	c.put = false
}

// parseEvent turns the change of a user key into an event of a stamp, rewriting it in place; 0: that in the header of a put.
func (p *parser) parseEvent(ev *mvccpb.Event, stamp int64, order int) error {
	e := Event{Rev: stamp, Type: ev.Type, Kv: ev.Kv, PrevKv: ev.PrevKv, Member: p.member, MemberRev: p.rev, Order: order}
	if ev.Type == mvccpb.Event_DELETE {
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
		if e.Rev = ev.Kv.ModRevision; stamp != 0 && stamp != e.Rev {
			return p.foreign(ev, fmt.Errorf("%w: its header has stamp %d, its manifest %d", record.ErrMalformed, e.Rev, stamp))
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

// sort brings marks and events into the order of stamps.
func (p *parser) sort() {
	slices.SortFunc(p.marks, func(a, b mark) int { return cmp.Or(cmp.Compare(a.stamp, b.stamp), cmp.Compare(a.kind, b.kind)) })
	p.marks = slices.CompactFunc(p.marks, func(a, b mark) bool { return a.stamp == b.stamp })
	if byStamp := func(a, b Event) int { return cmp.Compare(a.Rev, b.Rev) }; !slices.IsSortedFunc(p.evs, byStamp) {
		slices.SortStableFunc(p.evs, byStamp)
	}
}

func (p *parser) foreign(ev *mvccpb.Event, err error) error {
	return fmt.Errorf("%w: key %q at revision %d: %w", ErrForeignWrite, ev.Kv.Key, p.rev, err)
}
