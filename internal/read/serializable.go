package read

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// serializableRevision finds the revision that a serializable range request is served at: it covers what was told, and the
// coordinator is not asked. Other members than those that hold the range are not waited for, if they hold up W.
func (r *Reader) serializableRevision(ctx context.Context, f *feed.Feed, req *pb.RangeRequest) (at int64, header headerRevision, err error) {
	members := r.membersOf(req)
	if req.Revision <= 0 {
		at, err = r.serialize(ctx, f, members)
		return at, constant(at), err
	}
	known := r.cfg.Feeds.Known()
	if req.Revision > known {
		if err := r.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, Asked(err, true)
		}
		known = r.cfg.Feeds.Known()
	}
	if req.Revision < r.cfg.Feeds.Compacted.Load() {
		return 0, nil, Asked(rpctypes.ErrGRPCCompacted, true)
	}
	return req.Revision, constant(known), r.settle(ctx, f, members, req.Revision)
}

func constant(rev int64) headerRevision {
	return func(context.Context) (int64, error) { return rev, nil }
}

// serialize returns a revision that covers what was told before the call, and is settled on the members.
func (r *Reader) serialize(ctx context.Context, f *feed.Feed, members []int) (int64, error) {
	at := r.cfg.Feeds.Known()
	if err := r.settle(ctx, f, members, at); err != nil {
		return 0, err
	}
	return max(at, f.Log.Closed()), nil
}

// settle waits until nothing can land on the members any more at or below a revision that was handed out. Where another member
// is away and holds up W, their own fences see to that.
func (r *Reader) settle(ctx context.Context, f *feed.Feed, members []int, rev int64) error {
	if rev <= f.Log.Closed() {
		return nil
	}
	f.Await(rev)
	return atOnce(ctx, len(members), func(ctx context.Context, i int) error {
		for {
			wait, cancel := f.Fencer.WhileMoving(ctx, fencedReadAfter)
			err := f.Log.WaitSettled(wait, members[i], rev)
			stuck := errors.Is(context.Cause(wait), fencer.ErrStuck)
			cancel()
			if err == nil || !stuck || ctx.Err() != nil {
				return err
			}
			raising, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = f.RaiseFence(raising, r.cfg.Members[members[i]], r.cfg.Clock.Epoch(), rev) // again, if there was no answer
			cancel()
		}
	})
}

// membersOf returns the members that a range request reads.
func (r *Reader) membersOf(req *pb.RangeRequest) []int {
	key, end := req.Key, req.RangeEnd
	if len(end) > 0 {
		var empty bool
		if key, end, empty = validate.Clip(key, end); empty {
			return nil
		}
	}
	return r.cfg.Ring.MembersOf(key, end)
}

// readBy returns the members that a serializable transaction reads, whatever branch runs. There are no transactions inside it.
func (r *Reader) readBy(plan *translate.Plan) []int {
	reads := make([]bool, len(r.cfg.Members))
	note := func(members []int) {
		for _, m := range members {
			reads[m] = true
		}
	}
	note(plan.Members)
	for _, ops := range [][]*pb.RequestOp{plan.Req.Success, plan.Req.Failure} {
		for _, op := range ops {
			note(r.membersOf(op.GetRequestRange()))
		}
	}
	var members []int
	for m, read := range reads {
		if read {
			members = append(members, m)
		}
	}
	return members
}
