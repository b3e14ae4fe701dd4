package mergedlog

import (
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

const keysPerMember = 4 // two keys to a slot

// world is a cluster that obeys the protocol: members with native histories, and a clock.
type world struct {
	t         *rapid.T
	members   []*worldMember
	epoch     int64
	clock     int64
	claimed   int // members that a rebuild under way has set the next epoch on; -1: none is under way
	flying    []flight
	landed    []worldEvent
	crossings []*crossing
	onSend    func(member int, f flight, txn *pb.TxnRequest)
	nextValue int
}

type flight struct{ epoch, stamp int64 }

type worldEvent struct {
	stamp int64
	del   bool
	kv    *mvccpb.KeyValue // user's view
	rev   int64

	parted bool // of a transaction across members: released in the order of
	order  int  // its operation, then by key
}

type worldMember struct {
	id      int
	state   MemberState
	slots   map[int]int64
	holder  *record.Holder // of the whole member
	keys    map[string]*mvccpb.KeyValue
	history []worldRev                    // revision i+1 at i
	states  []map[string]*mvccpb.KeyValue // native, revision i at i

	underway []request // sent to the member, and not there yet
}

// request is a flight with what it will do, if nothing is in its way: on keys i and i+1, which share a slot.
type request struct {
	flight
	i, kind int
}

type worldRev struct {
	events []*mvccpb.Event
	marks  []worldMark
	evs    []worldEvent // in the order of events
	before MemberState
	after  MemberState
	locks  map[int]record.Holder // after it
	part   *worldPart
}

func newWorld(t *rapid.T, members int) *world {
	w := &world{t: t, epoch: 1, clock: 1, claimed: -1}
	for i := range members {
		w.members = append(w.members, &worldMember{
			id: i, state: MemberState{Epoch: 1}, slots: map[int]int64{},
			keys: map[string]*mvccpb.KeyValue{}, states: []map[string]*mvccpb.KeyValue{{}},
		})
	}
	return w
}

func (w *world) draw(n int) int { return rapid.IntRange(0, n-1).Draw(w.t, "n") }

func (w *world) key(member, i int) string { return fmt.Sprintf("k%d/%d", i, member) }

func worldSlot(key []byte) int {
	var i, member int
	if _, err := fmt.Sscanf(string(key), "k%d/%d", &i, &member); err != nil {
		panic(err)
	}
	return member*100 + i/2
}

// step does one random thing.
func (w *world) step() {
	m := w.members[w.draw(len(w.members))]
	switch x := w.draw(28); {
	case x < 6:
		w.take(1 + w.draw(5))
	case x < 13:
		w.batch(m)
	case x < 14:
		w.exclusive(m)
	case x < 16:
		w.surrender(m)
	case x < 17 && len(w.flying) > 0:
		w.pick() // dies
	case x < 18:
		w.raise(m, w.epoch, 1+int64(w.draw(int(w.clock))))
	case x < 24:
		w.cross()
	case x < 25:
		w.rebuild()
	case x < 26:
		w.send(m)
	default:
		w.arrive(m)
	}
}

func (w *world) take(n int) {
	if w.claimed >= 0 {
		return
	}
	for range n {
		w.clock++
		w.flying = append(w.flying, flight{w.epoch, w.clock})
	}
}

// pick takes a stamp out of flight, the older ones more often.
func (w *world) pick() flight {
	i := min(w.draw(len(w.flying)), w.draw(len(w.flying)))
	f := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	return f
}

// rebuild goes one step ahead in replacing a lost coordinator.
func (w *world) rebuild() {
	if w.claimed < 0 {
		if w.draw(3) > 0 {
			return
		}
		w.claimed = 0
	}
	if w.claimed < len(w.members) {
		m := w.members[w.claimed]
		t := m.begin()
		t.fence(w.epoch+1, m.state.Fence)
		t.commit(w)
		w.claimed++
		return
	}
	w.epoch++
	w.clock = 1
	for _, m := range w.members {
		w.clock = max(w.clock, m.state.Clock, m.state.Fence)
	}
	w.claimed = -1
}

type raiseReply struct {
	member            int
	epoch, fence, rev int64
}

// raise lifts the member's fence; ok is false in another epoch.
func (w *world) raise(m *worldMember, epoch, fence int64) (r raiseReply, ok bool) {
	if m.state.Epoch != epoch {
		return r, false
	}
	if m.state.Fence < fence {
		t := m.begin()
		t.fence(epoch, fence)
		t.commit(w)
	}
	return raiseReply{m.id, epoch, fence, m.state.Rev}, true
}

func (w *world) surrender(m *worldMember) {
	if len(w.flying) == 0 {
		return
	}
	if f := w.pick(); f.epoch == m.state.Epoch {
		t := m.begin()
		t.mark(f.stamp, manifest.Surrendered)
		t.commit(w)
	}
}

// refuse lets a batch be refused as a whole: one manifest marks all its stamps.
func (w *world) refuse(m *worldMember) {
	var stamps []int64
	for len(stamps) < 3 && len(w.flying) > 0 {
		f := w.pick()
		if w.onSend != nil {
			w.onSend(m.id, f, nil)
		}
		if f.epoch == m.state.Epoch {
			stamps = append(stamps, f.stamp)
		}
	}
	if len(stamps) == 0 {
		return
	}
	t := m.begin()
	for _, s := range stamps {
		t.mark(s, manifest.Pinned)
	}
	t.commit(w)
}

// batch lands some stamps on the member, one operation each, on disjoint slots.
func (w *world) batch(m *worldMember) {
	if w.draw(6) == 0 {
		w.refuse(m)
		return
	}
	t := m.begin()
	free := []int{0, 2}
	for len(free) > 0 && len(w.flying) > 0 {
		i := free[0]
		free = free[1:]
		f := w.pick()
		if w.onSend != nil {
			w.onSend(m.id, f, nil)
		}
		if w.draw(8) == 0 || f.epoch != m.state.Epoch {
			continue // lost on the way, or of another epoch: leaves nothing
		}
		w.operation(t, f.stamp, i, w.draw(kinds))
	}
	t.commit(w)
}

// send sends a request to the member, that takes its time.
func (w *world) send(m *worldMember) {
	if len(w.flying) == 0 {
		return
	}
	r := request{w.pick(), 2 * w.draw(2), w.draw(kinds)}
	if w.onSend != nil {
		w.onSend(m.id, r.flight, w.wouldPut(m, r))
	}
	m.underway = append(m.underway, r)
}

// arrive lets a request come to the member, or get lost.
func (w *world) arrive(m *worldMember) {
	if len(m.underway) == 0 {
		return
	}
	i := w.draw(len(m.underway))
	r := m.underway[i]
	m.underway = slices.Delete(m.underway, i, i+1)
	if w.draw(4) == 0 || r.epoch != m.state.Epoch {
		return
	}
	t := m.begin()
	w.operation(t, r.stamp, r.i, r.kind)
	t.commit(w)
}

// wouldPut is what an operation puts if it lands.
func (w *world) wouldPut(m *worldMember, r request) *pb.TxnRequest {
	a, b := []byte(w.key(m.id, r.i)), []byte(w.key(m.id, r.i+1))
	slot := record.SlotKey(worldSlot(a))
	keys := [kinds][][]byte{{a}, {a}, {a}, {a, b}, {slot}, {a, slot}, {}}[r.kind]
	txn := &pb.TxnRequest{}
	for i, key := range keys {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}
		if i > 0 { // however deep
			op = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{op}}}}
		}
		txn.Success = append(txn.Success, op)
	}
	return txn
}

// kinds is how many operations there are.
const kinds = 7

// operation lands one operation on the keys i and i+1, which share a slot.
func (w *world) operation(t *worldTxn, stamp int64, i, kind int) {
	m := t.m
	a, b := w.key(m.id, i), w.key(m.id, i+1)
	slot := worldSlot([]byte(a))
	switch {
	case m.state.Fence >= stamp, m.holder != nil:
		t.mark(stamp, manifest.Fenced)
		return
	case m.slots[slot] >= stamp, stampOf(m.keys[a]) >= stamp, stampOf(m.keys[b]) >= stamp:
		t.mark(stamp, manifest.Pinned)
		return
	}
	switch kind {
	case 0, 1, 2:
		t.put(w, a, stamp)
	case 3:
		t.put(w, a, stamp)
		t.put(w, b, stamp)
	case 4:
		t.del(a, stamp)
		t.slot(slot, stamp)
	case 5:
		t.put(w, a, stamp)
		t.del(b, stamp)
		t.slot(slot, stamp)
	case 6:
		t.mark(stamp, manifest.Landed)
		t.name(stamp, manifest.Name{Touch: manifest.Compared, Key: []byte(a)})
	}
}

// exclusive lands a transaction that has the member for itself.
func (w *world) exclusive(m *worldMember) {
	if len(w.flying) == 0 {
		return
	}
	f := w.pick()
	if f.epoch != m.state.Epoch {
		return
	}
	t := m.begin()
	switch {
	case m.state.Fence >= f.stamp, m.holder != nil:
		t.mark(f.stamp, manifest.Fenced)
	case m.state.Clock >= f.stamp, m.slotLocked():
		t.mark(f.stamp, manifest.Pinned)
	default:
		for i := range keysPerMember {
			switch w.draw(4) {
			case 0:
				t.put(w, w.key(m.id, i), f.stamp)
			case 1, 2:
				t.del(w.key(m.id, i), f.stamp)
			}
		}
		if w.draw(3) == 0 {
			t.delRange(w, f.stamp)
		}
		t.mark(f.stamp, manifest.Exclusive)
		t.fence(f.epoch, f.stamp)
	}
	t.commit(w)
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

// worldTxn is one member revision in the making.
type worldTxn struct {
	m      *worldMember
	rev    worldRev
	clock  int64
	parted *worldPart
}

func (m *worldMember) begin() *worldTxn {
	return &worldTxn{m: m, rev: worldRev{before: m.state, after: m.state, locks: cloneLocks(m)}}
}

func (t *worldTxn) record(key, value []byte) {
	kv := &mvccpb.KeyValue{Key: key, Value: value, ModRevision: t.m.state.Rev + 1, CreateRevision: 1, Version: 2}
	t.rev.events = append(t.rev.events, &mvccpb.Event{Kv: kv})
}

func (t *worldTxn) fence(epoch, fence int64) {
	t.rev.after.Epoch, t.rev.after.Fence = epoch, fence
	t.record([]byte(record.KeyFence), record.Pair(epoch, fence))
}

func (t *worldTxn) slot(slot int, stamp int64) {
	t.m.slots[slot] = stamp
	t.mark(stamp, manifest.Landed)
	t.record(record.SlotKey(slot), record.Number(stamp))
}

func (t *worldTxn) put(w *world, key string, stamp int64) {
	rev := t.m.state.Rev + 1
	h := record.Header{Stamp: stamp, Create: stamp, VersionBase: int64(w.draw(2)) * 3, Lease: int64(w.draw(2)) * 77}
	kv := &mvccpb.KeyValue{Key: []byte(key), CreateRevision: rev, ModRevision: rev, Version: 1}
	prev := t.m.keys[key]
	if prev != nil {
		h.Create, kv.CreateRevision, kv.Version = userView(prev).CreateRevision, prev.CreateRevision, prev.Version+1
	}
	w.nextValue++
	kv.Value = h.Value(fmt.Appendf(nil, "v%d", w.nextValue))
	t.name(stamp, manifest.Name{Touch: manifest.Put, Key: kv.Key})
	t.rev.events = append(t.rev.events, &mvccpb.Event{Kv: kv, PrevKv: prev})
}

// del deletes a key, which may not be there.
func (t *worldTxn) del(key string, stamp int64) {
	t.name(stamp, manifest.Name{Touch: manifest.Deleted, Key: []byte(key)})
	t.remove(key, stamp)
}

// delRange deletes, by one operation, the keys that the revision does not touch otherwise.
func (t *worldTxn) delRange(w *world, stamp int64) {
	t.name(stamp, manifest.Name{Touch: manifest.Deleted, Key: []byte("k"), End: []byte("l")})
	for i := range keysPerMember {
		if key := w.key(t.m.id, i); !t.touched(key) {
			t.remove(key, stamp)
		}
	}
}

func (t *worldTxn) remove(key string, stamp int64) {
	prev := t.m.keys[key]
	if prev == nil {
		return
	}
	if t.parted != nil {
		t.parted.ops[key] = t.parted.op
	}
	kv := &mvccpb.KeyValue{Key: []byte(key), ModRevision: t.m.state.Rev + 1}
	t.rev.evs = append(t.rev.evs, worldEvent{stamp: stamp, del: true, kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: stamp}})
	t.rev.events = append(t.rev.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv, PrevKv: prev})
}

// commit makes the revision the member's next one.
func (t *worldTxn) commit(w *world) {
	m := t.m
	t.note(w)
	if len(t.rev.events) == 0 {
		return
	}
	if t.clock > m.state.Clock {
		t.rev.after.Clock = t.clock
		t.record([]byte(record.KeyClock), record.ClockRecord{Epoch: m.state.Epoch, Highest: t.clock}.Value())
	}
	t.shuffle(w)
	t.rev.after.Rev = m.state.Rev + 1
	deleted := map[string]int64{}
	for _, e := range t.rev.evs {
		deleted[string(e.kv.Key)] = e.stamp
	}
	t.rev.evs = nil
	keys := maps.Clone(m.keys)
	for _, ev := range t.rev.events {
		key := string(ev.Kv.Key)
		e := worldEvent{rev: t.rev.after.Rev}
		switch {
		case ev.Kv.Key[0] == record.Reserved:
			continue
		case ev.Type == mvccpb.Event_DELETE:
			delete(keys, key)
			e.del, e.stamp = true, deleted[key]
			e.kv = &mvccpb.KeyValue{Key: ev.Kv.Key, ModRevision: e.stamp}
		default:
			keys[key] = ev.Kv
			e.kv = userView(ev.Kv)
			e.stamp = e.kv.ModRevision
		}
		t.rev.evs = append(t.rev.evs, e)
	}
	if t.rev.part = t.parted; t.parted != nil {
		t.orders()
	}
	w.landed = append(w.landed, t.rev.evs...)
	m.keys, m.state = keys, t.rev.after
	m.states = append(m.states, keys)
	m.history = append(m.history, t.rev)
}

// deliverable is a copy of the member's revision for a log to own.
func (m *worldMember) deliverable(rev int64) MemberRevision {
	r := MemberRevision{Rev: rev}
	for _, ev := range m.history[rev-1].events {
		r.Events = append(r.Events, proto.Clone(ev).(*mvccpb.Event))
	}
	return r
}
