package clock

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

// errDamaged says that the epoch record is there and digits are not.
var errDamaged = errors.New("metaetcd: the coordinator has lost digits of the clock")

// add adds k to the clock (0: only reads it) and returns what it stands at after that: the stamps clock−k+1, …, clock
// are the caller's. When the epoch has ended it moves to the next one, creating it if it has to, and adds there.
//
// An error says that the outcome is unknown. The stamps may be gone, which is harmless: nothing knows them.
func (c *Clock) add(ctx context.Context, k int64) (clock, epoch int64, err error) {
	for {
		in := c.epoch.Load()
		if in == nil {
			return 0, 0, errNotOpen
		}
		// Highest must be read before the add is sent: others take and land higher stamps while it is under way.
		highest := c.cfg.Highest()
		start := time.Now()
		clock, found, err := c.addIn(ctx, in, k)
		switch {
		case errors.Is(err, errDamaged):
			err = c.discard(ctx, in, "the coordinator has lost a part of the clock")
		case err != nil:
			return 0, 0, err
		case found != nil:
			err = c.follow(ctx, in, found)
		case clock-k < highest:
			err = c.discard(ctx, in, "the coordinator's clock went backwards",
				zap.Int64("clock", clock-k), zap.Int64("highest_stamp_seen", highest))
		default:
			c.observe(k, time.Since(start))
			return clock, in.rec.Epoch, nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// addIn adds k within an epoch. If the coordinator is not in that epoch, nothing was added and found is what it holds.
func (c *Clock) addIn(ctx context.Context, in *epochState, k int64) (clock int64, found *records, err error) {
	ops := appendDigitPuts(make([]*pb.RequestOp, 0, digits+1), k)
	resp, err := c.exchange(ctx, &pb.TxnRequest{
		Compare: in.compare,
		Success: append(ops, readDigits),
		Failure: []*pb.RequestOp{readRecords},
	})
	if err != nil {
		if errors.Is(err, rpctypes.ErrGRPCKeyNotFound) {
			err = errDamaged
		}
		return 0, nil, err
	}
	kvs := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs
	if !resp.Succeeded {
		found, err = parseRecords(kvs)
		return 0, found, err
	}
	sum, ok := sumDigits(kvs)
	if !ok {
		return 0, nil, errDamaged
	}
	return in.rec.Base + sum, nil, nil
}

func (c *Clock) observe(k int64, took time.Duration) {
	switch h := c.cfg.Hooks; {
	case k > 0 && h.Added != nil:
		h.Added(k, took)
	case k == 0 && h.Read != nil:
		h.Read(took)
	}
}
