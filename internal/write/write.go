package write

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// maxLosses is how often an operation of one member may meet others before it locks its slots.
const maxLosses = 3

// write runs a validated transaction; a put or a delete is one of a single operation. What changes nothing is answered
// from a snapshot and takes no stamp, because etcd's revision would not move either.
func (c *Writer) Do(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	plan := translate.NewPlan(req, c.Ring)
	if !plan.Writes || len(plan.Members) == 0 {
		return c.Reads.ReadTxn(ctx, plan)
	}
	if len(plan.Members) > 1 {
		return c.Cross.Run(ctx, plan)
	}
	w := &attempt{c: c, plan: plan, member: c.Members[plan.Members[0]]}
	for w.losses < maxLosses {
		free, err := c.Feeds.AwaitUnlocked(ctx, c.Ring, w.member.Index, plan.Exclusive(), plan.Keys...)
		if err != nil {
			return nil, err
		}
		if !free && plan.Exclusive() {
			break // there may never be a moment without locks, unless it claims the member
		}
		resp, done, err := w.try(ctx)
		if errors.Is(err, rpctypes.ErrGRPCTooManyOps) || errors.Is(err, translate.ErrRounds) || commit.TooLarge(err) && plan.LongKeys() {
			break
		}
		if done || err != nil {
			return resp, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return c.Cross.Run(ctx, plan)
}
