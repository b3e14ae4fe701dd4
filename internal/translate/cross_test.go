package translate_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// Lock, Decide and Apply on several members give the state, the answers and the events of one plain etcd.
func TestCrossIsOneEtcd(t *testing.T) {
	for i := range 4 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				w := newCrossWorld(t, 8)
				for range rapid.IntRange(1, 8).Draw(t, "transactions") {
					if req := w.draw(); req != nil {
						w.run(req)
						w.check()
					}
				}
			})
		})
	}
}

// draw draws a transaction that writes on some branch.
func (w *crossWorld) draw() *pb.TxnRequest {
	g := txns{w.t, w.truth(), w.flag("ranged")}
	req := g.draw()
	if w.rarely("same ranges") {
		req = g.sweep()
	}
	if req == nil || validate.Txn(req, 128) != nil {
		return nil
	}
	if p := translate.NewPlan(req, w.ring); !p.Writes || len(p.Members) == 0 {
		return nil
	}
	return req
}

// sweep deletes ranges and keys that were deleted before in the same transaction.
func (g txns) sweep() *pb.TxnRequest {
	g.ranged = true
	req := &pb.TxnRequest{}
	for range rapid.IntRange(2, 5).Draw(g.t, "deletes") {
		req.Success = append(req.Success, g.remove())
	}
	if g.flag("again") {
		req.Success = append(req.Success, req.Success[0], nested(&pb.TxnRequest{Success: slices.Clone(req.Success)}))
	}
	return req
}

// run takes a transaction through one of its lives.
func (w *crossWorld) run(req *pb.TxnRequest) {
	records := w.all((*member).protected)
	x := w.begin(req)
	cross := x.plan.NewCross(w.ring, x.shares, x.locked)
	run, writes, err := cross.Run()
	_, _, want := w.truth().run(req, 1)
	require.Equal(w.t, want, err)
	switch {
	case err != nil || !writes:
		x.unlock()
		require.Equal(w.t, records, w.all((*member).protected), "given back as it was found")
		if err == nil {
			before := w.plain.Revision()
			w.plainRun(req)
			require.Equal(w.t, before, w.plain.Revision(), "it writes")
		}
	case w.rarely("unlock"):
		x.unlock()
		require.Equal(w.t, records, w.all((*member).protected), "given back as it was found")
	case w.rarely("abort"):
		x.abort()
		x.tryDecide(run, cross, w.skip(), w.epoch, translate.ErrLost)
	default:
		w.land(x, run, cross)
	}
	w.closeGaps()
}

// closeGaps closes what was skipped.
func (w *crossWorld) closeGaps() {
	for s := w.log.Closed() + 1; s <= w.plain.Revision(); s++ {
		w.surrender(s)
	}
	w.deliver()
	require.Equal(w.t, w.plain.Revision(), w.log.Closed())
	require.Zero(w.t, w.log.Locked(), "locks are left")
}

func (w *crossWorld) plainRun(req *pb.TxnRequest) *pb.TxnResponse {
	w.events = nil
	resp, err := w.kv.Txn(context.Background(), proto.Clone(req).(*pb.TxnRequest))
	require.NoError(w.t, err)
	return resp
}

func (w *crossWorld) land(x *crossed, run *translate.Run, cross *translate.Cross) {
	d := x.decide(run, cross)
	require.GreaterOrEqual(w.t, len(d.Parts), len(x.shares)-1)
	for s := w.log.Closed() + 1; s < d.Stamp; s++ {
		w.surrender(s)
	}
	w.deliver()
	x.apply(d)
	want := w.plainRun(x.plan.Req)
	require.Equal(w.t, d.Stamp, w.plain.Revision())
	w.compareAnswers(x, run, d, want)
	require.Equal(w.t, d.Stamp, w.log.Closed())
	evs, _, err := w.log.Since(d.Stamp, 0)
	require.NoError(w.t, err)
	require.Equal(w.t, plainEvents(w.events), logEvents(evs), "%v", x.plan.Req)
}

// compareAnswers leaves out what a transaction answers from snapshots: reads, and what was there before.
func (w *crossWorld) compareAnswers(x *crossed, run *translate.Run, d *translate.Decided, want *pb.TxnResponse) {
	reads := ranges(want)
	for i, s := range run.Steps {
		if s.Range != nil {
			d.Results[i].Range, reads = reads[0], reads[1:]
		}
	}
	got := x.plan.Answer(run, d.Stamp, true, d.Results)
	strip(want)
	strip(got)
	require.True(w.t, proto.Equal(want, got), "%v\nanswered  %v\nwant      %v", x.plan.Req, got, want)
}

func strip(resp *pb.TxnResponse) {
	resp.Header = nil
	for _, op := range resp.Responses {
		if p := op.GetResponsePut(); p != nil {
			p.PrevKv = nil
		}
		if d := op.GetResponseDeleteRange(); d != nil {
			d.PrevKvs = nil
		}
		if t := op.GetResponseTxn(); t != nil {
			strip(t)
		}
	}
}

func eventLine(kind mvccpb.Event_EventType, kv, prev *mvccpb.KeyValue) string {
	show := func(kv *mvccpb.KeyValue) string {
		if kv == nil {
			return "none"
		}
		return fmt.Sprintf("%q=%q %d %d %d %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	return fmt.Sprintf("%v %s before %s", kind, show(kv), show(prev))
}

func plainEvents(evs []*mvccpb.Event) (out []string) {
	for _, e := range evs {
		out = append(out, eventLine(e.Type, e.Kv, e.PrevKv))
	}
	return out
}

func logEvents(evs []*mergedlog.Event) (out []string) {
	for _, e := range evs {
		out = append(out, eventLine(e.Type, e.Kv, e.PrevKv))
	}
	return out
}

// Every request of a transaction of any size keeps within max-txn-ops.
func TestCrossFitsTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCrossWorld(t, 64)
		req := &pb.TxnRequest{}
		leased := w.flag("leased")
		for i := range rapid.IntRange(1, 120).Draw(t, "keys") {
			key := fmt.Sprint("k", i)
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				absent(key, req)
			case 1:
				req.Success = append(req.Success, remove(key, "").Success...)
			case 2:
				req.Success = append(req.Success, nested(put(key, "")), nested(remove(key, "")))
			default:
				req.Success = append(req.Success, put(key, "v").Success...)
			}
			if leased {
				for _, op := range req.Success {
					if p := op.GetRequestPut(); string(p.GetKey()) == key {
						p.Lease = 1000 + int64(i)
					}
				}
			}
		}
		if rapid.IntRange(0, 4).Draw(t, "range") == 0 {
			req.Success = append(req.Success, remove("a", "b").Success...)
		}
		if p := translate.NewPlan(req, w.ring); validate.Txn(req, 128) != nil || !p.Writes {
			return
		}
		w.run(req)
		w.check()
	})
}

// A part that its member would refuse is not decided, though its locks have fitted: the writer gives them back.
func TestPartsThatDoNotFitAreNotDecided(t *testing.T) {
	r, err := ring.New([]string{"m0", "m1"}, 8, ring.Policy{})
	require.NoError(t, err)
	for long := range 2 {
		kv := []pb.KVClient{etcdfake.New(1).Client(nil), etcdfake.New(2).Client(nil)}
		put := func(m int, key string, value []byte) {
			_, err := kv[m].Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: value})
			require.NoError(t, err)
		}
		for m := range kv {
			put(m, record.KeyLock, nil)
			put(m, record.KeyFence, record.Pair(1, 1))
			for _, s := range r.SlotsOf(m) {
				put(m, string(record.SlotKey(s)), record.Number(0))
			}
		}
		req, keys := &pb.TxnRequest{}, make([]int, 2)
		for i := 0; keys[1-long] == 0 || keys[long] < 127; i++ { // each takes a put, two entries and a hold; and the part a few more
			key := fmt.Sprint("k", i)
			m := r.MemberOf([]byte(key))
			if m != long && keys[m] > 0 {
				continue
			}
			keys[m]++
			put(m, key, record.Header{Stamp: 1, Create: 1, Lease: 1}.Value(nil))
			req.Success = append(req.Success, putOp(key, int64(1000+i)))
		}
		for ops, want := range map[int]error{20: rpctypes.ErrGRPCTooManyOps, 24: nil} {
			plan := translate.NewPlan(req, r)
			shares, h := plan.Shares(r, ops), record.Holder{ID: record.NewTxnID()}
			locked := make([]*translate.Locked, len(shares))
			for i, s := range shares {
				resp, err := kv[s.Member].Txn(t.Context(), s.Lock(1, h))
				require.NoError(t, err)
				locked[i], err = s.DecodeLock(1, resp)
				require.NoError(t, err)
				require.False(t, locked[i].Refused)
			}
			cross := plan.NewCross(r, shares, locked)
			run, _, err := cross.Run()
			require.NoError(t, err)
			_, err = cross.Decide(run, h, 2, 1, 0)
			require.Equal(t, want, err)
			for i, s := range shares {
				_, err := kv[s.Member].Txn(t.Context(), s.Unlock(h, locked[i]))
				require.NoError(t, err)
			}
		}
	}
}

func putOp(key string, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Lease: lease}}}
}

// A lock of a slot is taken only where the member works in the epoch, nobody holds the member, and no slot is held.
func TestLockIsGuarded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCrossWorld(t, 8)
		w.ops = 128
		x := &crossed{w: w, plan: translate.NewPlan(both(put("a", "v"), put("b", "v")), w.ring)}
		if w.flag("whole") {
			x.plan = translate.NewPlan(remove("a", "z"), w.ring)
		}
		x.shares = x.plan.Shares(w.ring, w.ops)
		s := &x.shares[0]
		before := w.members[s.Member].protected()
		for _, epoch := range []int64{0, 2} {
			_, err := s.DecodeLock(epoch, w.send(s.Member, s.Lock(epoch, x.holder)))
			got, ok := wrongEpoch(err)
			require.True(t, ok)
			require.EqualValues(t, 1, got)
		}
		require.Equal(t, before, w.members[s.Member].protected())
	})
}

// A part that deletes a range in a later epoch leaves the fence alone. A range compare that was read before it must be
// refused all the same.
func TestExclusiveSeesALatePart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCrossWorld(t, 8)
		all := remove("a", "z")
		landed := w.begin(both(put("a", "v"), put("b", "v"))) // keys of some members
		cross := landed.plan.NewCross(w.ring, landed.shares, landed.locked)
		run, _, err := cross.Run()
		require.NoError(t, err)
		w.land(landed, run, cross)

		x := w.begin(all)
		cross = x.plan.NewCross(w.ring, x.shares, x.locked)
		run, _, err = cross.Run()
		require.NoError(t, err)
		d := x.tryDecide(run, cross, w.stamp(), w.epoch, nil)
		w.nextEpoch(d.Stamp)
		for _, p := range d.Parts {
			m := w.members[w.at(p)]
			view := m.look()
			require.True(t, w.send(w.at(p), decidedTxn(t, p)).Succeeded)

			compare := &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), RangeEnd: []byte("z"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}}}
			compare.Success, compare.Failure = put("a", "there").Success, put("a", "not there").Success
			plan := translate.NewPlan(compare, w.ring)
			run, err := plan.Evaluate(view)
			require.NoError(t, err)
			state := func(key []byte) translate.State { return m.state(string(key)) }
			e, err := plan.Exclude(run, state, view.rev, d.Stamp+1, w.epoch, known, w.ring.Slot)
			require.NoError(t, err)
			out, err := e.Decode(m.send(e.Txn))
			require.NoError(t, err)
			require.False(t, out.Landed, "it was evaluated on what the part has deleted")
		}
	})
}
