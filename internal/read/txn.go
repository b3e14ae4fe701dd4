package read

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// ReadTxn answers a transaction that cannot write, from one snapshot of any number of members.
func (r *Reader) ReadTxn(ctx context.Context, plan *translate.Plan) (*pb.TxnResponse, error) {
	resp, _, err := r.AnswerUnstamped(ctx, plan, plan.Serializable())
	return resp, err
}

// AnswerUnstamped evaluates a transaction on a snapshot. If it writes nothing there, that is its answer, at a revision
// at which what was read was current; otherwise writes is true.
func (r *Reader) AnswerUnstamped(ctx context.Context, plan *translate.Plan, serializable bool) (resp *pb.TxnResponse, writes bool, err error) {
	return r.answerUnstamped(ctx, plan, func(f *feed.Feed) (int64, error) {
		if serializable {
			return r.serialize(ctx, f, r.readBy(plan))
		}
		return r.linearize(ctx, f)
	})
}

// AnswerRefused is AnswerUnstamped for a transaction that was refused at a stamp: one that was taken after the call began covers what was
// acknowledged before, and the clock need not be asked again.
func (r *Reader) AnswerRefused(ctx context.Context, plan *translate.Plan, at commit.Stamp) (resp *pb.TxnResponse, writes bool, err error) {
	return r.answerUnstamped(ctx, plan, func(f *feed.Feed) (int64, error) {
		if at.Epoch != r.cfg.Clock.Epoch() {
			return r.linearize(ctx, f)
		}
		return r.reach(ctx, f, at.Rev, at.Epoch)
	})
}

func (r *Reader) answerUnstamped(
	ctx context.Context, plan *translate.Plan, pin func(f *feed.Feed) (int64, error),
) (resp *pb.TxnResponse, writes bool, err error) {
	// A lease that does not exist now does not exist in any later state.
	dead, err := r.deadLeases(ctx, plan)
	if err != nil {
		return nil, false, err
	}
	err = r.Serve(ctx, func(f *feed.Feed) error {
		at, err := pin(f)
		if err != nil {
			return err
		}
		resp, writes, err = r.answerAt(ctx, f, plan, at, dead)
		return err
	})
	return resp, writes, err
}

func (r *Reader) answerAt(ctx context.Context, f *feed.Feed, plan *translate.Plan, at int64, dead []int64) (*pb.TxnResponse, bool, error) {
	view, err := r.viewAt(ctx, f, plan, at)
	if err != nil {
		return nil, false, err
	}
	run, err := plan.Evaluate(view)
	if err != nil {
		// What comes before it in the transaction is refused first, as in etcd.
		if earlier := r.CheckReads(ctx, f, run); earlier != nil {
			return nil, false, earlier
		}
		return nil, false, err
	}
	if run.WritesBeside(view.emptyRanges, view) {
		if err := r.CheckReads(ctx, f, run); err != nil {
			return nil, false, err
		}
		if err := attachesTo(run, dead); err != nil {
			return nil, false, err
		}
		return nil, true, r.settleKept(ctx, run)
	}
	results := make([]translate.Result, len(run.Steps))
	for i, s := range run.Steps {
		if s.Range == nil {
			continue
		}
		rev := at
		if r.Names(s.Range) {
			if rev = s.Range.Revision; rev > at {
				return nil, false, rpctypes.ErrGRPCFutureRev
			}
			if rev < r.cfg.Feeds.Compacted.Load() {
				return nil, false, Asked(rpctypes.ErrGRPCCompacted, true)
			}
		}
		if results[i].Range, err = r.rangeAt(ctx, f, s.Range, rev, nil); err != nil {
			return nil, false, Asked(err, r.Names(s.Range))
		}
	}
	resp := plan.Answer(run, at, false, results)
	resp.Header = r.cfg.Feeds.Header()
	resp.Header.Revision = at
	return resp, false, nil
}

// CheckReads validates the revisions that a transaction's reads name, before anything lands.
func (r *Reader) CheckReads(ctx context.Context, f *feed.Feed, run *translate.Run) error {
	for _, s := range run.Steps {
		if s.Range != nil && r.Names(s.Range) {
			if err := r.checkRevision(ctx, f, s.Range.Revision); err != nil {
				return Asked(err, true)
			}
		}
	}
	return nil
}

// Names reports whether a transaction's read is of a revision of its own. As in etcd, -1 is the present while nothing was ever
// compacted; afterwards it is compacted, as lower ones always are. A read that is no part of a transaction takes every negative
// revision for the present.
func (r *Reader) Names(req *pb.RangeRequest) bool {
	return req.Revision != 0 && (req.Revision != -1 || r.cfg.Feeds.Compacted.Load() > 0)
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
func (r *Reader) viewAt(ctx context.Context, f *feed.Feed, plan *translate.Plan, at int64) (*snapView, error) {
	type ask struct {
		req   *pb.RangeRequest
		needs snapshot.Level
		resp  *pb.RangeResponse
	}
	var asks []ask
	for _, k := range plan.Keys {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: k}, needs: needed(plan.NeedValue)})
	}
	for _, span := range plan.Compared {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: span.Key, RangeEnd: span.End}, needs: needed(plan.ComparesValues(span))})
	}
	for _, span := range plan.Deleted {
		asks = append(asks, ask{req: &pb.RangeRequest{Key: span.Key, RangeEnd: span.End, CountOnly: true}})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range asks {
		g.Go(func() (err error) {
			shown := snapshot.Keys
			if asks[i].needs == snapshot.Values {
				shown = snapshot.Values
			}
			asks[i].resp, err = r.pairsAt(gctx, f, asks[i].req, at, nil, shown, asks[i].needs)
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
	for i, span := range plan.Compared {
		v.ranges[span.String()] = asks[len(plan.Keys)+i].resp.Kvs
	}
	for i, span := range plan.Deleted {
		v.emptyRanges[span.String()] = asks[len(plan.Keys)+len(plan.Compared)+i].resp.Count == 0
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

// deadLeases returns those of a plan's leases that do not exist.
func (r *Reader) deadLeases(ctx context.Context, plan *translate.Plan) ([]int64, error) {
	if len(plan.Leases) == 0 {
		return nil, nil
	}
	return r.cfg.Leases.Dead(ctx, plan.Leases)
}

// attachesTo is etcd's error of a run that attaches a key to one of the leases, which do not exist.
func attachesTo(run *translate.Run, dead []int64) error {
	if run.AttachesTo(dead) {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return nil
}

// settleKept makes sure of the leases that a run's keys keep: those that live have all their records, and those that have ended have lost
// their keys.
func (r *Reader) settleKept(ctx context.Context, run *translate.Run) error {
	if len(run.Kept) == 0 {
		return nil
	}
	_, err := r.cfg.Leases.Dead(ctx, run.Kept)
	return err
}
