package translate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// crossWorld is members whose streams fill a merged log, and one plain etcd that is to look the same from outside: stamps
// are the plain one's revisions.
type crossWorld struct {
	t       *rapid.T
	ring    *ring.Ring
	members []*member
	streams [][]mergedlog.MemberRevision // of each member, not delivered yet
	log     *mergedlog.Log
	epoch   int64
	ops     int // max-txn-ops

	plain  *etcdfake.Server
	kv     pb.KVClient // of plain
	events []*mvccpb.Event
}

func newCrossWorld(t *rapid.T, slots int) *crossWorld {
	r, err := ring.New([]string{"m0", "m1", "m2"}, slots, ring.Policy{})
	require.NoError(t, err)
	r = r.Numbered([]int{7, 1, 4}) // unlike their places
	w := &crossWorld{
		t: t, ring: r, epoch: 1, plain: etcdfake.New(9), streams: make([][]mergedlog.MemberRevision, 3),
		log: mergedlog.New(mergedlog.Config{Members: 3, SlotOf: r.Slot}),
		ops: rapid.SampledFrom([]int{20, 24, 40, 128}).Draw(t, "max-txn-ops"),
	}
	w.kv = w.plain.Client(nil)
	w.plain.Grant(append(manyLeases(), leases[2:]...)...)
	w.plain.Watch(func(_ int64, evs []*mvccpb.Event) { w.events = append(w.events, evs...) })
	for i := range w.streams {
		server := etcdfake.New(uint64(i) + 1)
		server.Grant(append(manyLeases(), leases[2:]...)...)
		m := &member{t: t, kv: server.Client(nil), ring: r}
		for s := range slots {
			m.put(string(record.SlotKey(s)), record.Number(0))
		}
		m.put(record.KeyLock, nil)
		m.put(record.KeyFence, record.Pair(1, 1))
		m.put(record.KeyClock, record.ClockRecord{Epoch: 1, Highest: 1}.Value())
		w.log.Open(i, mergedlog.MemberState{Rev: server.Revision(), Epoch: 1, Fence: 1, Clock: 1})
		server.Watch(func(rev int64, evs []*mvccpb.Event) {
			requireOneFate(t, evs)
			w.streams[i] = append(w.streams[i], mergedlog.MemberRevision{Rev: rev, Events: evs})
		})
		w.members = append(w.members, m)
	}
	require.NoError(t, w.log.Start(1))
	return w
}

// manyLeases are there beside those that random transactions use.
func manyLeases() (ids []int64) {
	for id := range int64(120) {
		ids = append(ids, 1000+id)
	}
	return ids
}

func (w *crossWorld) flag(what string) bool   { return rapid.Bool().Draw(w.t, what) }
func (w *crossWorld) rarely(what string) bool { return rapid.IntRange(0, 7).Draw(w.t, what) == 0 }

// deliver brings what the members have committed to the log.
func (w *crossWorld) deliver() {
	for i, revs := range w.streams {
		require.NoError(w.t, w.log.Append(i, revs))
		w.streams[i] = nil
	}
}

// at is the member that takes a part.
func (w *crossWorld) at(p record.DecidedPart) int {
	m, err := w.ring.Member(p.Member)
	require.NoError(w.t, err)
	return m
}

// stamp takes the plain etcd's next revision.
func (w *crossWorld) stamp() int64 { return w.plain.Revision() + 1 }

// skip gives the next revision of the plain etcd to nothing that users see.
func (w *crossWorld) skip() (stamp int64) {
	stamp = w.stamp()
	w.plainRun(both(put("x", ""), remove("x", "")))
	return stamp
}

// surrender closes a stamp that nothing landed with.
func (w *crossWorld) surrender(stamp int64) {
	w.members[0].put(record.KeyManifest, manifest.Encode(manifest.Of(manifest.Surrendered, stamp)...))
}

// truth is what users have to see.
func (w *crossWorld) truth() etcd {
	resp, err := w.kv.Range(context.Background(), &pb.RangeRequest{Key: []byte(record.FirstUserKey), RangeEnd: []byte{0}})
	require.NoError(w.t, err)
	e := etcd{}
	for _, kv := range resp.Kvs {
		e[string(kv.Key)] = kv
	}
	return e
}

// check compares what users see.
func (w *crossWorld) check() {
	truth := w.truth()
	n := 0
	for i, m := range w.members {
		for key, kv := range m.users() {
			require.Equal(w.t, i, w.ring.MemberOf([]byte(key)), "%q is on a member that it is not of", key)
			require.True(w.t, proto.Equal(truth[key], kv), "%q is %v, want %v", key, kv, truth[key])
			n++
		}
	}
	require.Len(w.t, truth, n)
}

// protected are a member's slot clocks, lock and fence, which an attempt that comes to nothing must not change.
func (m *member) protected() string {
	s := fmt.Sprintf("lock %x fence %x", m.get(record.KeyLock, "").Kvs[0].Value, m.get(record.KeyFence, "").Kvs[0].Value)
	begin, end := record.SlotRange()
	for _, kv := range m.get(string(begin), string(end)).Kvs {
		s += fmt.Sprintf(" %x", kv.Value)
	}
	return s
}

func (w *crossWorld) all(of func(m *member) string) (out []string) {
	for _, m := range w.members {
		out = append(out, of(m))
	}
	return out
}

// fits checks a request against etcd's own counting, and that a stricter etcd would take it too: none of its deletes has the key
// of one of its puts.
func (w *crossWorld) fits(req *pb.TxnRequest) *pb.TxnRequest {
	puts, deletes := changes(req.Success)
	for _, key := range puts {
		for _, d := range deletes {
			require.False(w.t, d.Contains(key), "%q is put and deleted by %v", key, req)
		}
	}
	if err := validate.Txn(req, w.ops); !errors.Is(err, validate.ErrReservedKey) {
		require.NoError(w.t, err, "%v", req)
	}
	return req
}

func changes(ops []*pb.RequestOp) (puts [][]byte, deletes []translate.Range) {
	for _, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			puts = append(puts, o.RequestPut.Key)
		case *pb.RequestOp_RequestDeleteRange:
			deletes = append(deletes, translate.Range{Key: o.RequestDeleteRange.Key, End: o.RequestDeleteRange.RangeEnd})
		case *pb.RequestOp_RequestTxn:
			p, d := changes(o.RequestTxn.Success)
			puts, deletes = append(puts, p...), append(deletes, d...)
		}
	}
	return puts, deletes
}

func (w *crossWorld) send(member int, req *pb.TxnRequest) *pb.TxnResponse {
	return w.members[member].send(w.fits(req))
}

// crossed is a transaction under its locks.
type crossed struct {
	w      *crossWorld
	plan   *translate.Plan
	shares []translate.Share
	holder record.Holder
	locked []*translate.Locked
}

// begin locks all that a transaction concerns.
func (w *crossWorld) begin(req *pb.TxnRequest) *crossed {
	x := &crossed{w: w, plan: translate.NewPlan(req, w.ring)}
	x.shares = x.plan.Shares(w.ring, w.ops)
	x.holder = record.Holder{ID: record.NewTxnID(), Primary: w.ring.Number(x.shares[0].Member)}
	for i := range x.shares {
		if s := &x.shares[i]; s.Whole && w.flag("claim") {
			x.locked = append(x.locked, x.claim(s))
		} else {
			x.locked = append(x.locked, x.lock(s))
		}
		x.show(&x.shares[i], x.locked[i].Bare)
	}
	return x
}

// show fills in the headers of what was read without values.
func (x *crossed) show(s *translate.Share, bare []*mvccpb.KeyValue) {
	users := x.w.members[s.Member].users()
	for _, kv := range bare {
		require.Empty(x.w.t, kv.Value)
		u := users[string(kv.Key)]
		kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease = u.ModRevision, u.CreateRevision, u.Version, u.Lease
	}
}

// lock locks a share, which nobody else can lock then.
func (x *crossed) lock(s *translate.Share) *translate.Locked {
	w := x.w
	l, err := s.DecodeLock(w.epoch, w.send(s.Member, s.Lock(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.False(w.t, l.Refused)
	before := w.members[s.Member].protected()
	other := record.Holder{ID: record.NewTxnID(), Primary: 2}
	refused, err := s.DecodeLock(w.epoch, w.send(s.Member, s.Lock(w.epoch, other)))
	require.NoError(w.t, err)
	require.True(w.t, refused.Refused)
	require.Equal(w.t, s.Whole, refused.Held)
	if s.Whole {
		require.Equal(w.t, x.holder.ID, refused.Holder.ID)
	}
	require.Equal(w.t, before, w.members[s.Member].protected())
	return l
}

// claim locks a member while one of its slots is locked, and reads it when that is free.
func (x *crossed) claim(s *translate.Share) *translate.Locked {
	w, m := x.w, x.w.members[s.Member]
	slot := string(record.SlotKey(w.ring.SlotsOf(s.Member)[0]))
	clock := m.get(slot, "").Kvs[0].Value
	m.put(slot, record.Holder{ID: record.NewTxnID()}.Value())
	refused, err := s.DecodeLock(w.epoch, w.send(s.Member, s.Lock(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.True(w.t, refused.Refused && !refused.Held, "a slot is locked, the member is not")
	l, err := s.DecodeClaim(w.epoch, w.send(s.Member, s.Claim(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.False(w.t, l.Refused)
	read, err := s.DecodeRead(w.epoch, w.send(s.Member, s.Read(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.True(w.t, read.Refused && read.Held && read.Holder.ID == x.holder.ID, "too early")
	again, err := s.DecodeClaim(w.epoch, w.send(s.Member, s.Claim(w.epoch, record.Holder{ID: record.NewTxnID()})))
	require.NoError(w.t, err)
	require.True(w.t, again.Refused && again.Holder.ID == x.holder.ID, "nobody else claims it")
	m.put(slot, clock)
	m.put(record.KeyLock, record.Holder{ID: record.NewTxnID()}.Value())
	read, err = s.DecodeRead(w.epoch, w.send(s.Member, s.Read(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.True(w.t, read.Refused && read.Held && read.Holder.ID != x.holder.ID, "lost")
	m.put(record.KeyLock, x.holder.Value())
	l, err = s.DecodeRead(w.epoch, w.send(s.Member, s.Read(w.epoch, x.holder)))
	require.NoError(w.t, err)
	require.False(w.t, l.Refused)
	return l
}

// unlock is the writer's own way to give up: all is as before.
func (x *crossed) unlock() {
	for i := range x.shares {
		s := &x.shares[i]
		require.True(x.w.t, x.w.send(s.Member, s.Unlock(x.holder, x.locked[i])).Succeeded)
		require.False(x.w.t, x.w.send(s.Member, s.Unlock(x.holder, x.locked[i])).Succeeded, "twice")
	}
}

// abort is a helper's way. Later, nobody can decide.
func (x *crossed) abort() {
	w := x.w
	for i, s := range x.shares {
		if i == 0 {
			x.cannotAbort()
		}
		hold := translate.Hold{Holder: x.holder, Whole: s.Whole, Leases: s.Leases}
		for hold.Slots = range slices.Chunk(slices.Clone(s.Slots), translate.Width(w.ops)-1) {
			stamp := w.skip()
			require.False(w.t, w.send(s.Member, hold.Abort(w.epoch+1, stamp, known, w.ops)).Succeeded, "in another epoch")
			require.True(w.t, w.send(s.Member, hold.Abort(w.epoch, stamp, known, w.ops)).Succeeded)
			require.False(w.t, w.send(s.Member, hold.Abort(w.epoch, stamp, known, w.ops)).Succeeded, "twice")
			clock := w.members[s.Member].clock()
			require.GreaterOrEqual(w.t, clock, stamp)
			for _, slot := range hold.Slots {
				require.Equal(w.t, record.Number(stamp), w.members[s.Member].get(string(record.SlotKey(slot)), "").Kvs[0].Value)
			}
		}
		if s.Whole {
			require.True(w.t, w.send(s.Member, hold.Abort(w.epoch, 0, 0, w.ops)).Succeeded)
		}
		begin, end := record.AllHeldRange()
		require.Empty(w.t, w.members[s.Member].get(string(begin), string(end)).Kvs, "leases are held")
	}
}

// cannotAbort tries it after a decision.
func (x *crossed) cannotAbort() {
	w, s, key := x.w, x.shares[0], string(record.TxnKey(x.holder.ID))
	decision := &pb.PutRequest{Key: []byte(key), Value: record.Decision{Stamp: 9}.Value()}
	w.send(s.Member, &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(decision), translate.Note()}})
	slots := s.Slots[:min(len(s.Slots), translate.Width(w.ops)-1)]
	require.False(w.t, w.send(s.Member, translate.Hold{Holder: x.holder, Whole: s.Whole, Slots: slots, Leases: s.Leases}.Abort(w.epoch, 9, 0, w.ops)).Succeeded)
	w.send(s.Member, &pb.TxnRequest{Success: []*pb.RequestOp{request.Delete(&pb.DeleteRangeRequest{Key: []byte(key)}), translate.Note()}})
}

// decide lands the transaction on its primary, past a fence or an epoch that comes in between.
func (x *crossed) decide(run *translate.Run, cross *translate.Cross) *translate.Decided {
	w := x.w
	if w.rarely("fence") {
		stamp := w.skip()
		for _, m := range w.members {
			m.put(record.KeyFence, record.Pair(w.epoch, stamp))
		}
		x.tryDecide(run, cross, stamp, w.epoch, translate.ErrStale)
	}
	if w.rarely("epoch") {
		stamp := w.skip()
		w.nextEpoch(stamp)
		var wrong *translate.WrongEpochError
		before := w.nativeRevs()
		d, err := cross.Decide(run, x.holder, stamp, w.epoch-1, known)
		require.NoError(w.t, err)
		require.ErrorAs(w.t, d.Decode(w.send(x.shares[0].Member, d.Txn)), &wrong)
		require.Equal(w.t, w.epoch, wrong.Epoch)
		require.Equal(w.t, before, w.nativeRevs(), "a stamp of an old epoch leaves nothing")
	}
	return x.tryDecide(run, cross, w.stamp(), w.epoch, nil)
}

// nextEpoch does to the members what a rebuild of the coordinator does, and then fences a stamp.
func (w *crossWorld) nextEpoch(fence int64) {
	w.epoch++
	for _, m := range w.members {
		_, f := m.pair(record.KeyFence)
		if w.flag("fence as well") {
			f = max(f, fence)
		}
		m.put(record.KeyFence, record.Pair(w.epoch, f))
	}
}

func (w *crossWorld) nativeRevs() []string {
	return w.all(func(m *member) string { return fmt.Sprint(m.get("\x00", "").Header.Revision) })
}

func (x *crossed) tryDecide(run *translate.Run, cross *translate.Cross, stamp, epoch int64, want error) *translate.Decided {
	w := x.w
	d, err := cross.Decide(run, x.holder, stamp, epoch, known)
	require.NoError(w.t, err)
	primary := w.members[x.shares[0].Member]
	require.ErrorIs(w.t, d.Decode(w.send(x.shares[0].Member, d.Txn)), want)
	if want == nil {
		if d.Parts == nil || w.at(d.Parts[0]) != x.shares[0].Member {
			x.landed(&x.shares[0], stamp, epoch)
		} else {
			x.stillHeld(&x.shares[0])
		}
		var kept []record.DecidedPart
		for _, kv := range primary.get(string(record.TxnKey(x.holder.ID)), "").Kvs {
			decision, err := record.ParseDecision(kv.Value)
			require.NoError(w.t, err)
			require.Equal(w.t, stamp, decision.Stamp)
			kept = decision.Parts
		}
		require.Equal(w.t, d.Parts, kept)
		return d
	}
	clock := primary.clock()
	require.GreaterOrEqual(w.t, clock, stamp, "a refusal raises the clock")
	marks, _ := primary.marks(primary.get("\x00", "").Header.Revision)
	require.Contains(w.t, marks, stamp, "a refusal leaves its mark")
	return d
}

// landed checks what a part that was decided in an epoch leaves beside its writes.
func (x *crossed) landed(s *translate.Share, stamp, decided int64) {
	w, m := x.w, x.w.members[s.Member]
	clock := m.clock()
	require.GreaterOrEqual(w.t, clock, stamp)
	epoch, fence := m.pair(record.KeyFence)
	require.Equal(w.t, w.epoch, epoch)
	if s.Whole && epoch == decided {
		require.GreaterOrEqual(w.t, fence, stamp)
	}
	for _, slot := range s.Slots {
		require.Equal(w.t, record.Number(stamp), m.get(string(record.SlotKey(slot)), "").Kvs[0].Value)
	}
	require.Empty(w.t, m.get(record.KeyLock, "").Kvs[0].Value)
}

// stillHeld checks that nobody else gets a member's locks between two parts.
func (x *crossed) stillHeld(s *translate.Share) {
	w := x.w
	l, err := s.DecodeLock(w.epoch, w.send(s.Member, s.Lock(w.epoch, record.Holder{ID: record.NewTxnID()})))
	require.NoError(w.t, err)
	require.True(w.t, l.Refused)
}

// apply lands the other parts in any order of the members, some of them twice, and some before their turn.
func (x *crossed) apply(d *translate.Decided) {
	w, epoch := x.w, x.w.epoch
	rest := slices.Clone(d.Parts)
	for len(rest) > 0 {
		require.Less(w.t, w.log.Closed(), d.Stamp, "a part is missing")
		i := rapid.IntRange(0, len(rest)-1).Draw(w.t, "next")
		m := w.at(rest[i])
		if w.rarely("late epoch") { // a decided part lands in any epoch
			w.nextEpoch(d.Stamp)
		}
		if first := slices.IndexFunc(rest, func(p record.DecidedPart) bool { return w.at(p) == m }); first < i {
			x.refused(rest[i])
			continue
		}
		require.True(w.t, w.send(m, decidedTxn(w.t, rest[i])).Succeeded)
		s := &x.shares[slices.IndexFunc(x.shares, func(s translate.Share) bool { return s.Member == m })]
		if slices.ContainsFunc(rest[i+1:], func(p record.DecidedPart) bool { return w.at(p) == m }) {
			x.stillHeld(s)
		} else {
			x.landed(s, d.Stamp, epoch)
		}
		x.refused(rest[i])
		rest = slices.Delete(rest, i, i+1)
		w.deliver()
	}
}

func decidedTxn(t require.TestingT, p record.DecidedPart) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	require.NoError(t, proto.Unmarshal(p.Txn, req))
	return req
}

// refused sends a part that is not the next one of its member.
func (x *crossed) refused(p record.DecidedPart) {
	w := x.w
	rev := w.members[w.at(p)].get("\x00", "").Header.Revision
	require.False(w.t, w.send(w.at(p), decidedTxn(w.t, p)).Succeeded, "applied twice, or too early")
	require.Equal(w.t, rev, w.members[w.at(p)].get("\x00", "").Header.Revision)
}
