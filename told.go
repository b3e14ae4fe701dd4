package metaetcd

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// A client must never be told less than it was told before. Most of what it is told is closed, and W never goes back. But a write is
// acknowledged before it is closed, and W has no value while the log is being reopened. So the highest revision that was told is
// kept, for the process as a whole: it cannot know which of its callers talk to each other.

// tell notes that a client is about to learn of a revision that may not be closed.
func (c *core) tell(rev int64) { raise(&c.told, rev) }

// known is the highest revision that this process's clients may have learned of: what they are told later covers it. It may not be
// closed; but then it will be, because it was handed out.
func (c *core) known() int64 { return max(c.closed(), c.told.Load(), c.compacted.Load()) }

// closed is the highest revision that was closed in this process, by this log or an earlier one.
func (c *core) closed() int64 {
	var now int64
	if log := c.log.Load(); log != nil {
		now = log.Closed()
	}
	return max(now, c.closedBefore.Load()) // in this order: the log may have been replaced meanwhile
}

// knownHeader is a header that covers what this process's clients know.
func (c *core) knownHeader() *pb.ResponseHeader {
	h := c.header()
	h.Revision = c.known()
	return h
}

// serializableRevision finds the revision that a serializable range request is served at: it covers what was told, and the
// coordinator is not asked. Other members than those that hold the range are not waited for, if they hold up W.
func (c *core) serializableRevision(ctx context.Context, f *feed, req *pb.RangeRequest) (at int64, header present, err error) {
	members := c.membersOf(req)
	if req.Revision <= 0 {
		at, err = c.serialize(ctx, f, members)
		return at, constant(at), err
	}
	known := c.known()
	if req.Revision > known {
		if err := c.checkRevision(ctx, f, req.Revision); err != nil {
			return 0, nil, asked(err, true)
		}
		known = c.known()
	}
	if req.Revision < c.compacted.Load() {
		return 0, nil, asked(rpctypes.ErrGRPCCompacted, true)
	}
	return req.Revision, constant(known), c.settle(ctx, f, members, req.Revision)
}

func constant(rev int64) present {
	return func(context.Context) (int64, error) { return rev, nil }
}

// serialize returns a revision that covers what was told before the call, and is settled on the members.
func (c *core) serialize(ctx context.Context, f *feed, members []int) (int64, error) {
	at := c.known()
	if err := c.settle(ctx, f, members, at); err != nil {
		return 0, err
	}
	return max(at, f.log.Closed()), nil
}

// settle waits until nothing can land on the members any more at or below a revision that was handed out. Where another member
// is away and holds up W, their own fences see to that.
func (c *core) settle(ctx context.Context, f *feed, members []int, rev int64) error {
	if rev <= f.log.Closed() {
		return nil
	}
	f.await(rev)
	return atOnce(ctx, len(members), func(ctx context.Context, i int) error {
		for {
			wait, cancel := f.gaps.WhileMoving(ctx, fencedReadAfter)
			err := f.log.WaitSettled(wait, members[i], rev)
			stuck := errors.Is(context.Cause(wait), fencer.ErrStuck)
			cancel()
			if err == nil || !stuck || ctx.Err() != nil {
				return err
			}
			raising, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = f.raiseFence(raising, c.members[members[i]], c.clock.Epoch(), rev) // again, if there was no answer
			cancel()
		}
	})
}

// await says that somebody waits until a revision that was handed out is closed.
func (f *feed) await(rev int64) { f.gaps.Await(f.c.clock.Epoch(), rev) }

// membersOf returns the members that a range request reads.
func (c *core) membersOf(req *pb.RangeRequest) []int {
	key, end := req.Key, req.RangeEnd
	if len(end) > 0 {
		var empty bool
		if key, end, empty = validate.Clip(key, end); empty {
			return nil
		}
	}
	return c.ring.MembersOf(key, end)
}

// readBy returns the members that a serializable transaction reads, whatever branch runs. There are no transactions inside it.
func (c *core) readBy(plan *translate.Plan) []int {
	reads := make([]bool, len(c.members))
	note := func(members []int) {
		for _, m := range members {
			reads[m] = true
		}
	}
	note(plan.Members)
	for _, ops := range [][]*pb.RequestOp{plan.Req.Success, plan.Req.Failure} {
		for _, op := range ops {
			note(c.membersOf(op.GetRequestRange()))
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
