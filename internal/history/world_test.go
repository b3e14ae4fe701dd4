package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

const keysPerMember = 4 // two keys to a slot

// world is a cluster that obeys the protocol, in one epoch: members with native histories and a clock. Its methods
// without a lock are for the one goroutine that makes it. Without a t nothing is random.
type world struct {
	t       *rapid.T
	members []*member
	clock   int64
	flying  []int64     // stamps
	crosses []*crossing // under way
	landed  []landing

	mu        sync.Mutex
	compacted int64 // what the user asked for
	known     int64 // what the process under test knows of it
	plan      []compaction
	tick      int // calls and revisions served so far
}

// compaction is to happen at a tick.
type compaction struct {
	tick   int
	rev    int64
	silent bool // the process does not learn of it
	forget bool // its log does
}

type landing struct {
	stamp  int64
	member int
	key    string
	text   string
	value  string // kvString; empty for a delete

	parted bool // of a transaction across members: in the order of
	order  int  // its operation, then by key
}

// byStamp is the order in which landings are replayed; those of a member that are not parts stay as they landed.
func byStamp(a, b landing) int {
	if a.stamp == b.stamp && a.parted {
		return cmp.Or(a.order-b.order, strings.Compare(a.key, b.key))
	}
	return cmp.Compare(a.stamp, b.stamp)
}

type member struct {
	w         *world
	id        int
	origin    int64
	fence     int64
	compacted int64 // native; guarded by the world's mu
	onCompact func(rev int64)

	slots  map[int]int64     // math.MaxInt64: locked
	locked map[int]*crossing // by slot
	keys   map[string]*mvccpb.KeyValue
	revs   [][]*mvccpb.Event    // by member revision; there is nothing at 0 and 1
	clocks []record.ClockRecord // by member revision
	states []map[string]string  // by member revision: user's view
	shown  []shown              // by member revision
}

// shown is what a member shows of single keys at a member revision.
type shown struct {
	changed map[int]int64 // by what is locked, the last change; the fence and the member's lock count as the whole member's
	fence   int64
	slots   map[int]int64
	whole   bool
	keys    map[string]*mvccpb.KeyValue
}

func newWorld(t *rapid.T, members int) *world {
	w := &world{t: t, clock: 1}
	for i := range members {
		m := &member{
			w: w, id: i, slots: map[int]int64{}, locked: map[int]*crossing{}, keys: map[string]*mvccpb.KeyValue{},
			revs: make([][]*mvccpb.Event, 2), clocks: make([]record.ClockRecord, 2), states: make([]map[string]string, 2), shown: make([]shown, 2),
		}
		m.create(t != nil && w.draw(2) == 0)
		w.members = append(w.members, m)
	}
	return w
}

// create initialises the member, after somebody else had used it or not.
func (m *member) create(used bool) {
	next := func(clock int64, evs ...*mvccpb.Event) {
		for _, ev := range evs {
			ev.Kv.ModRevision = int64(len(m.revs))
		}
		m.revs, m.clocks, m.states, m.shown = append(m.revs, evs), append(m.clocks, record.ClockRecord{Highest: clock}), append(m.states, nil), append(m.shown, shown{})
	}
	if used {
		next(0, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("foreign"), Value: []byte("x")}})
		next(0, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("foreign")}})
	}
	rec := func(key string, value []byte) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: value}}
	}
	next(1, rec(record.KeyFence, record.Pair(0, 0)), rec(record.KeyClock, record.ClockRecord{Highest: 1}.Value()), rec(string(record.SlotKey(0)), record.Number(0)))
	next(1, rec(record.KeyTopology, nil))
	m.origin = m.rev()
}

func (m *member) rev() int64 { return int64(len(m.revs)) - 1 }

func (m *member) state() mergedlog.MemberState {
	return mergedlog.MemberState{Rev: m.rev(), Fence: m.fence, Clock: m.clocks[m.rev()].Highest}
}

func (w *world) draw(n int) int { return rapid.IntRange(0, n-1).Draw(w.t, "n") }

func testSlot(key []byte) int {
	var i, member int
	if _, err := fmt.Sscanf(string(key), "k%d/%d", &i, &member); err != nil {
		panic(err)
	}
	return member*100 + i/2
}

func keyName(member, i int) string { return fmt.Sprintf("k%d/%d", i, member) }

// step does one random thing.
func (w *world) step() {
	m := w.members[w.draw(len(w.members))]
	switch x := w.draw(24); {
	case x < 7:
		for range 1 + w.draw(4) {
			w.clock++
			w.flying = append(w.flying, w.clock)
		}
	case x < 15:
		t := m.begin()
		for slot := range keysPerMember / 2 {
			if stamp, ok := w.pick(); ok {
				t.operation(stamp, slot)
			}
		}
		t.commit()
	case x < 16:
		if stamp, ok := w.pick(); ok {
			t := m.begin()
			t.exclusive(stamp)
			t.commit()
		}
	case x < 18:
		if stamp, ok := w.pick(); ok {
			t := m.begin()
			t.mark(stamp, manifest.Surrendered)
			t.commit()
		}
	case x < 19:
		w.pick() // dies
	case x < 20:
		w.cross()
	case x < 23:
		w.proceed()
	default:
		m.raise(1 + int64(w.draw(int(w.clock))))
	}
}

// pick takes a stamp out of flight, the older ones more often.
func (w *world) pick() (int64, bool) {
	if len(w.flying) == 0 {
		return 0, false
	}
	i := min(w.draw(len(w.flying)), w.draw(len(w.flying)))
	stamp := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	return stamp, true
}

// raise lifts the fence and returns the revision at which it holds.
func (m *member) raise(fence int64) int64 {
	if m.fence < fence {
		t := m.begin()
		t.raise(fence)
		t.commit()
	}
	return m.rev()
}

// change is one member revision in the making.
type change struct {
	*member
	rev     int64
	evs     []*mvccpb.Event
	clock   int64
	entries []manifest.Entry
	part    *manifest.Part // of a transaction across members
	op      int            // of it, that is under way
	landed  []landing
	fenceAt int64
}

func (m *member) begin() *change {
	return &change{member: m, rev: m.rev() + 1, clock: m.clocks[m.rev()].Highest, fenceAt: m.fence}
}

func (c *change) record(key string, value []byte) {
	c.evs = append(c.evs, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: c.rev, CreateRevision: 1, Version: 2}})
}

func (c *change) raise(fence int64) {
	c.fenceAt = fence
	c.record(record.KeyFence, record.Pair(0, fence))
}

// mark notes what the manifest is to say of a stamp.
func (c *change) mark(stamp int64, kind manifest.Kind) *manifest.Entry {
	c.clock = max(c.clock, stamp)
	for i := range c.entries {
		if e := &c.entries[i]; e.Stamp == stamp {
			e.Kind = max(e.Kind, kind)
			return e
		}
	}
	c.entries = append(c.entries, manifest.Entry{Stamp: stamp, Kind: kind})
	return &c.entries[len(c.entries)-1]
}

func (c *change) name(stamp int64, touch manifest.Touch, key string) {
	e := c.mark(stamp, manifest.Landed)
	e.Names = append(e.Names, manifest.Name{Touch: touch, Op: c.op, Key: []byte(key)})
}

// knownClosed is a revision that some writer knows to be closed: nothing at or below it is still to land.
func (w *world) knownClosed() int64 {
	closed := w.clock
	for _, stamp := range w.flying {
		closed = min(closed, stamp-1)
	}
	for _, x := range w.crosses {
		if x.stamp > 0 {
			closed = min(closed, x.stamp-1)
		}
	}
	if w.t != nil && w.draw(2) == 0 {
		closed = int64(w.draw(int(closed) + 1))
	}
	return closed
}

func (c *change) slot(slot int, stamp int64) {
	c.mark(stamp, manifest.Landed)
	c.slots[slot] = stamp
	c.record(string(record.SlotKey(slot)), record.Number(stamp))
}

// operation lands one operation on the two keys of a slot.
func (c *change) operation(stamp int64, slot int) {
	a, b := keyName(c.id, 2*slot), keyName(c.id, 2*slot+1)
	name := testSlot([]byte(a))
	switch {
	case c.fence >= stamp:
		c.mark(stamp, manifest.Fenced)
		return
	case c.locked[mergedlog.Whole] != nil, c.slots[name] >= stamp, stampOf(c.keys[a]) >= stamp, stampOf(c.keys[b]) >= stamp:
		c.mark(stamp, manifest.Pinned)
		return
	}
	switch c.w.draw(6) {
	case 0, 1, 2:
		c.put(a, stamp)
	case 3:
		c.put(a, stamp)
		c.put(b, stamp)
	case 4:
		c.put(b, stamp)
		c.del(a, stamp)
		c.slot(name, stamp)
	case 5:
		c.del(a, stamp)
		c.del(b, stamp)
		c.slot(name, stamp)
	}
}

// exclusive lands a transaction that has the member for itself.
func (c *change) exclusive(stamp int64) {
	if c.fence >= stamp || c.clock >= stamp || len(c.locked) > 0 {
		c.mark(stamp, manifest.Pinned)
		return
	}
	for i := range keysPerMember {
		switch c.w.draw(3) {
		case 0:
			c.put(keyName(c.id, i), stamp)
		case 1:
			c.del(keyName(c.id, i), stamp)
		}
	}
	c.mark(stamp, manifest.Exclusive)
	c.raise(stamp)
}

func stampOf(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return userView(kv).ModRevision
}

func userView(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	kv = proto.Clone(kv).(*mvccpb.KeyValue)
	if err := record.ToUser(kv); err != nil {
		panic(err)
	}
	return kv
}

func kvString(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	return fmt.Sprintf("%s=%q create=%d mod=%d version=%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
}

func eventText(del bool, kv, prev *mvccpb.KeyValue) string {
	return fmt.Sprintf("del=%v %s prev %s", del, kvString(kv), kvString(prev))
}

func (c *change) put(key string, stamp int64) {
	c.name(stamp, manifest.Put, key)
	prev := c.keys[key]
	h := record.Header{Stamp: stamp, Create: stamp}
	kv := &mvccpb.KeyValue{Key: []byte(key), CreateRevision: c.rev, ModRevision: c.rev, Version: 1}
	var before *mvccpb.KeyValue
	if prev != nil {
		before = userView(prev)
		h.Create, kv.CreateRevision, kv.Version = before.CreateRevision, prev.CreateRevision, prev.Version+1
	}
	kv.Value = h.Value(fmt.Appendf(nil, "v%d", stamp))
	c.keys[key] = kv
	c.evs = append(c.evs, &mvccpb.Event{Kv: kv, PrevKv: prev})
	after := userView(kv)
	c.landed = append(c.landed, landing{stamp: stamp, member: c.id, key: key, text: eventText(false, after, before), value: kvString(after)})
}

func (c *change) del(key string, stamp int64) {
	c.name(stamp, manifest.Deleted, key)
	prev := c.keys[key]
	if prev == nil {
		return
	}
	delete(c.keys, key)
	c.evs = append(c.evs, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: c.rev}, PrevKv: prev})
	text := eventText(true, &mvccpb.KeyValue{Key: []byte(key), ModRevision: stamp}, userView(prev))
	c.landed = append(c.landed, landing{stamp: stamp, member: c.id, key: key, text: text})
}

// commit makes the revision the member's next one.
func (c *change) commit() {
	if len(c.entries) > 0 {
		if c.part != nil {
			c.entries[0].Part = *c.part
		}
		c.record(record.KeyManifest, manifest.Encode(c.entries...))
	}
	if len(c.evs) == 0 {
		return
	}
	clock := c.clocks[c.rev-1]
	if c.clock > clock.Highest {
		clock = record.ClockRecord{Highest: c.clock, Closed: c.w.knownClosed()}
		c.record(record.KeyClock, clock.Value())
	}
	state := map[string]string{}
	for key, kv := range c.keys {
		state[key] = kvString(userView(kv))
	}
	m := c.member
	m.fence = c.fenceAt
	m.revs, m.clocks, m.states = append(m.revs, c.evs), append(m.clocks, clock), append(m.states, state)
	m.shown = append(m.shown, shown{m.changesOf(c.rev, c.evs), m.fence, maps.Clone(m.slots), m.locked[mergedlog.Whole] != nil, maps.Clone(m.keys)})
	m.w.landed = append(m.w.landed, c.landed...)
}

// deliverable is a copy of the member's revision for its reader to own.
func (m *member) deliverable(rev int64, prev bool) mergedlog.MemberRevision {
	r := mergedlog.MemberRevision{Rev: rev}
	for _, ev := range m.revs[rev] {
		ev = proto.Clone(ev).(*mvccpb.Event)
		if !prev {
			ev.PrevKv = nil
		}
		r.Events = append(r.Events, ev)
	}
	return r
}

// serve is the beginning of every call and revision: compactions happen then. It returns where the member is
// compacted.
func (m *member) serve() int64 {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tick++
	for len(w.plan) > 0 && w.plan[0].tick <= w.tick {
		w.compact(w.plan[0])
		w.plan = w.plan[1:]
	}
	return m.compacted
}

func (w *world) compact(c compaction) {
	if c.rev <= w.compacted {
		return
	}
	w.compacted = c.rev
	if !c.silent {
		w.known = c.rev
	}
	for _, m := range w.members {
		m.compacted = max(m.compacted, m.lo(c.rev-1))
		if m.onCompact != nil && c.forget {
			m.onCompact(c.rev)
		}
	}
}

// lo is the definition.
func (m *member) lo(r int64) int64 {
	lo := m.rev()
	for lo > m.origin && m.clocks[lo].Highest > r {
		lo--
	}
	return lo
}

func (w *world) Compacted() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known
}
