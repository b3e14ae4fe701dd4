package metaetcd

import (
	"bytes"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// readTxn answers a transaction that cannot write, from one snapshot of any number of members.
func (c *core) readTxn(ctx context.Context, plan *translate.Plan) (*pb.TxnResponse, error) {
	resp, _, err := c.answerUnstamped(ctx, plan, plan.Serializable())
	return resp, err
}

// answerUnstamped evaluates a transaction on a snapshot. If it writes nothing there, that is its answer, at a revision
// at which what was read was current; otherwise writes is true.
func (c *core) answerUnstamped(ctx context.Context, plan *translate.Plan, serializable bool) (resp *pb.TxnResponse, writes bool, err error) {
	// A lease that does not exist now does not exist in any later state.
	dead, err := c.deadLeases(ctx, plan)
	if err != nil {
		return nil, false, err
	}
	err = c.current(ctx, func(f *feed) error {
		var at int64
		if serializable {
			at, err = c.serialize(ctx, f, c.readBy(plan))
		} else {
			at, err = c.linearize(ctx, f)
		}
		if err != nil {
			return err
		}
		resp, writes, err = c.answerAt(ctx, f, plan, at, dead)
		return err
	})
	return resp, writes, err
}

func (c *core) answerAt(ctx context.Context, f *feed, plan *translate.Plan, at int64, dead []int64) (*pb.TxnResponse, bool, error) {
	view, err := c.viewAt(ctx, f, plan, at)
	if err != nil {
		return nil, false, err
	}
	run, err := plan.Evaluate(view)
	if err != nil {
		// What comes before it in the transaction is refused first, as in etcd.
		if earlier := c.checkReads(ctx, f, run); earlier != nil {
			return nil, false, earlier
		}
		return nil, false, err
	}
	if run.WritesBeside(view.emptyRanges, view) {
		if err := c.checkReads(ctx, f, run); err != nil {
			return nil, false, err
		}
		if err := attachesTo(run, dead); err != nil {
			return nil, false, err
		}
		return nil, true, c.settleKept(ctx, run)
	}
	results := make([]translate.Result, len(run.Steps))
	for i, s := range run.Steps {
		if s.Range == nil {
			continue
		}
		rev := at
		if c.names(s.Range) {
			if rev = s.Range.Revision; rev > at {
				return nil, false, rpctypes.ErrGRPCFutureRev
			}
			if rev < c.compacted.Load() {
				return nil, false, asked(rpctypes.ErrGRPCCompacted, true)
			}
		}
		if results[i].Range, err = c.rangeAt(ctx, f, s.Range, rev, nil); err != nil {
			return nil, false, asked(err, c.names(s.Range))
		}
	}
	resp := plan.Answer(run, at, false, results)
	resp.Header = c.header()
	resp.Header.Revision = at
	return resp, false, nil
}

// checkReads validates the revisions that a transaction's reads name, before anything lands.
func (c *core) checkReads(ctx context.Context, f *feed, run *translate.Run) error {
	for _, s := range run.Steps {
		if s.Range != nil && c.names(s.Range) {
			if err := c.checkRevision(ctx, f, s.Range.Revision); err != nil {
				return asked(err, true)
			}
		}
	}
	return nil
}

// names reports whether a transaction's read is of a revision of its own. As in etcd, -1 is the present while nothing was ever
// compacted; afterwards it is compacted, as lower ones always are. A read that is no part of a transaction takes every negative
// revision for the present.
func (c *core) names(r *pb.RangeRequest) bool {
	return r.Revision != 0 && (r.Revision != -1 || c.compacted.Load() > 0)
}

// snapView is what a plan needs of a snapshot.
type snapView struct {
	keys        map[string]*mvccpb.KeyValue
	ranges      map[string][]*mvccpb.KeyValue
	emptyRanges map[string]bool // deleted ranges that hold nothing
}

// Get implements translate.View.
func (v *snapView) Get(key []byte) *mvccpb.KeyValue { return v.keys[string(key)] }

// Range implements translate.View.
func (v *snapView) Range(r translate.Range) []*mvccpb.KeyValue { return v.ranges[r.String()] }

// viewAt reads what the plan compares or writes at a closed revision.
func (c *core) viewAt(ctx context.Context, f *feed, plan *translate.Plan, at int64) (*snapView, error) {
	type ask struct {
		req   *pb.RangeRequest
		needs snapshot.Level
		resp  *pb.RangeResponse
	}
	var asks []ask
	for _, k := range plan.Keys {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: k}, needs: needed(plan.NeedValue)})
	}
	for _, r := range plan.Compared {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: r.Key, RangeEnd: r.End}, needs: needed(plan.ComparesValues(r))})
	}
	for _, r := range plan.Deleted {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: r.Key, RangeEnd: r.End, CountOnly: true}})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range asks {
		g.Go(func() (err error) {
			shown := snapshot.Keys
			if asks[i].needs == snapshot.Values {
				shown = snapshot.Values
			}
			asks[i].resp, err = c.pairsAt(gctx, f, asks[i].req, at, nil, shown, asks[i].needs)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	v := &snapView{keys: map[string]*mvccpb.KeyValue{}, ranges: map[string][]*mvccpb.KeyValue{}, emptyRanges: map[string]bool{}}
	for i, k := range plan.Keys {
		if kvs := asks[i].resp.Kvs; len(kvs) == 1 {
			v.keys[string(k)] = kvs[0]
		}
	}
	for i, r := range plan.Compared {
		v.ranges[r.String()] = asks[len(plan.Keys)+i].resp.Kvs
	}
	for i, r := range plan.Deleted {
		v.emptyRanges[r.String()] = asks[len(plan.Keys)+len(plan.Compared)+i].resp.Count == 0
	}
	return v, nil
}

// needed is what is read of pairs that are compared.
func needed(values bool) snapshot.Level {
	if values {
		return snapshot.Values
	}
	return snapshot.Heads
}

// reading is what a member said of some keys and ranges at one native revision.
type reading struct {
	rev         int64
	keys        [][]byte
	states      []translate.State
	places      map[string]int // of keys, when they are many and one was asked for
	ranges      map[string][]*mvccpb.KeyValue
	emptyRanges map[string]bool
}

// state returns a key's state and the native revision at which it was so.
func (r *reading) state(key []byte) (translate.State, int64, bool) {
	if len(r.keys) > manyKeys {
		if r.places == nil {
			r.places = make(map[string]int, len(r.keys))
			for i, k := range r.keys {
				r.places[string(k)] = i
			}
		}
		if i, found := r.places[string(key)]; found {
			return r.states[i], r.rev, true
		}
		return translate.State{}, 0, false
	}
	for i, k := range r.keys {
		if string(k) == string(key) {
			return r.states[i], r.rev, true
		}
	}
	return translate.State{}, 0, false
}

// manyKeys is from where on a map of them beats a scan.
const manyKeys = 16

// readKeys reads keys' states on their member. A serializable answer may be outdated; guards notice.
func (m *member) readKeys(ctx context.Context, keys [][]byte, linearizable bool) (*reading, error) {
	if len(keys) == 1 && !linearizable {
		resp, err := m.points.read(ctx, &pb.RangeRequest{Key: keys[0]})
		if err != nil {
			return nil, err
		}
		s, err := translate.StateOf(resp)
		return &reading{rev: resp.Header.Revision, keys: keys, states: []translate.State{s}}, err
	}
	req := &pb.TxnRequest{}
	for _, k := range keys {
		req.Success = append(req.Success, rangeOp(&pb.RangeRequest{Key: k, Serializable: !linearizable}))
	}
	resp, err := m.txn(ctx, req)
	if err != nil {
		return nil, err
	}
	rd := &reading{rev: resp.Header.Revision, keys: keys, states: make([]translate.State, len(keys))}
	for i := range keys {
		if rd.states[i], err = translate.StateOf(resp.Responses[i].GetResponseRange()); err != nil {
			return nil, err
		}
	}
	return rd, nil
}

// readState reads all that an exclusive transaction is evaluated on, at one native revision of its member, linearizably.
func (c *core) readState(ctx context.Context, m *member, plan *translate.Plan) (*reading, error) {
	req := &pb.TxnRequest{}
	add := func(r *pb.RangeRequest) { req.Success = append(req.Success, rangeOp(r)) }
	for _, k := range plan.Keys {
		add(&pb.RangeRequest{Key: k})
	}
	for _, r := range plan.Compared {
		add(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, KeysOnly: !plan.ComparesValues(r)})
	}
	for _, r := range plan.Deleted {
		add(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, CountOnly: true})
	}
	resp, err := m.txn(ctx, req)
	if err != nil {
		return nil, err
	}
	rd := &reading{rev: resp.Header.Revision, keys: plan.Keys, ranges: map[string][]*mvccpb.KeyValue{}, emptyRanges: map[string]bool{}}
	rs := resp.Responses
	for range plan.Keys {
		s, err := translate.StateOf(rs[0].GetResponseRange())
		if err != nil {
			return nil, err
		}
		rd.states, rs = append(rd.states, s), rs[1:]
	}
	for _, r := range plan.Compared {
		kvs := rs[0].GetResponseRange().GetKvs()
		if plan.ComparesValues(r) {
			err = m.usersView(kvs)
		} else {
			err = c.showHeads(ctx, m, kvs, rd.rev)
		}
		if err != nil {
			return nil, err
		}
		rd.ranges[r.String()], rs = kvs, rs[1:]
	}
	for _, r := range plan.Deleted {
		rd.emptyRanges[r.String()], rs = rs[0].GetResponseRange().GetCount() == 0, rs[1:]
	}
	return rd, nil
}

// usersView makes pairs of the member what their users know of them.
func (m *member) usersView(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if record.ToUser(kv) != nil {
			return m.foreign(kv.Key)
		}
	}
	return nil
}

// showHeads makes pairs that a member has shown without their values, at its revision rev, what the user's headers say of them.
func (c *core) showHeads(ctx context.Context, m *member, kvs []*mvccpb.KeyValue, rev int64) error {
	for _, kv := range kvs {
		snapshot.SetUnread(kv)
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	b := &bases{c: c, members: []int{m.index}, fresh: true, snaps: []mergedlog.MemberSnapshot{{Lo: rev}}}
	err := b.completeOf(ctx, 0, kvs, snapshot.Heads, true)
	dropMarks(kvs)
	return err
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// cached is what the state cache keeps of a state that was so at native revision rev.
func cached(s translate.State, rev int64) statecache.State {
	if s.KV == nil {
		return statecache.State{NativeMod: rev}
	}
	return statecache.State{NativeMod: s.NativeMod, NativeCreate: s.NativeCreate, Stamp: s.KV.ModRevision, Create: s.KV.CreateRevision, Version: s.KV.Version, Lease: s.KV.Lease}
}

func uncached(key []byte, s statecache.State) translate.State {
	if s.NativeCreate == 0 {
		return translate.State{}
	}
	return translate.State{
		KV:        &mvccpb.KeyValue{Key: key, ModRevision: s.Stamp, CreateRevision: s.Create, Version: s.Version, Lease: s.Lease},
		NativeMod: s.NativeMod, NativeCreate: s.NativeCreate,
	}
}

// replay answers the steps of a transaction that landed at stamp, in order.
type replay struct {
	c     *core
	f     *feed
	stamp int64
	own   []*mergedlog.Event
	byKey map[string][]*mergedlog.Event // the same: most steps read one key
}

// read reads the state that a step finds.
func (r *replay) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return r.c.rangeAt(ctx, r.f, req, r.stamp-1, r.ownIn(req))
}

// ownIn are the transaction's own writes that may lie in a range.
func (r *replay) ownIn(req *pb.RangeRequest) []*mergedlog.Event {
	if len(req.RangeEnd) == 0 {
		return r.byKey[string(req.Key)]
	}
	return r.own
}

func (r *replay) step(ctx context.Context, s translate.Step) (translate.Result, error) {
	switch {
	case s.Range != nil:
		if s.Range.Revision > 0 { // others were checked before it landed: they are the present
			resp, err := r.c.rangeAt(ctx, r.f, s.Range, s.Range.Revision, nil)
			return translate.Result{Range: resp}, err
		}
		resp, err := r.read(ctx, s.Range)
		return translate.Result{Range: resp}, err
	case s.Put != nil:
		prev, err := r.read(ctx, &pb.RangeRequest{Key: s.Put.Key})
		if err != nil {
			return translate.Result{}, err
		}
		r.put(s.Put, prev.Kvs)
		return translate.Result{Prev: prev.Kvs}, nil
	default:
		needs := snapshot.Keys
		if s.Delete.PrevKv {
			needs = snapshot.Values
		}
		req := &pb.RangeRequest{Key: s.Delete.Key, RangeEnd: s.Delete.RangeEnd}
		prev, err := r.c.pairsAt(ctx, r.f, req, r.stamp-1, r.ownIn(req), needs, needs)
		if err != nil {
			return translate.Result{}, err
		}
		for _, kv := range prev.Kvs {
			r.write(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: r.stamp}, kv)
		}
		res := translate.Result{Deleted: int64(len(prev.Kvs))}
		if s.Delete.PrevKv {
			res.Prev = prev.Kvs
		}
		return res, nil
	}
}

func (r *replay) put(put *pb.PutRequest, prev []*mvccpb.KeyValue) {
	kv := &mvccpb.KeyValue{Key: put.Key, Value: put.Value, ModRevision: r.stamp, CreateRevision: r.stamp, Version: 1, Lease: put.Lease}
	var old *mvccpb.KeyValue
	if len(prev) > 0 {
		old = prev[0]
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if put.IgnoreValue {
			kv.Value = old.Value
		}
		if put.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	r.write(mvccpb.Event_PUT, kv, old)
}

func (r *replay) write(t mvccpb.Event_EventType, kv, prev *mvccpb.KeyValue) {
	ev := &mergedlog.Event{Rev: r.stamp, Type: t, Kv: kv, PrevKv: prev, Member: r.c.owner(kv.Key)}
	r.own = append(r.own, ev)
	r.byKey[string(kv.Key)] = append(r.byKey[string(kv.Key)], ev)
}
