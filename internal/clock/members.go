package clock

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// fence is a member's fence record.
type fence struct {
	epoch, f int64
	raw      []byte
}

// eachMember runs f for all members at once and returns the first error.
func (c *Clock) eachMember(ctx context.Context, f func(ctx context.Context, i int, m Member) error) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range c.cfg.Members {
		g.Go(func() error {
			if err := f(ctx, i, m); err != nil {
				return wire.Name(m.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// highestEpoch returns the highest epoch that a member has been raised to.
func (c *Clock) highestEpoch(ctx context.Context) (int64, error) {
	epochs := make([]int64, len(c.cfg.Members))
	err := c.eachMember(ctx, func(ctx context.Context, i int, m Member) error {
		now, err := readFence(ctx, m)
		epochs[i] = now.epoch
		return err
	})
	return maximum(epochs), err
}

// raiseEpochs raises every member to an epoch and keeps their fences.
func (c *Clock) raiseEpochs(ctx context.Context, epoch int64) error {
	return c.raise(ctx, func(now fence) (fence, error) {
		if now.epoch > epoch {
			return now, errStartOver
		}
		return fence{epoch: epoch, f: now.f}, nil
	})
}

// raiseFences raises every member's fence to at least f, as long as the member is in that epoch.
func (c *Clock) raiseFences(ctx context.Context, epoch, f int64) error {
	return c.raise(ctx, func(now fence) (fence, error) {
		if now.epoch != epoch || now.f >= f {
			return now, nil
		}
		return fence{epoch: epoch, f: f}, nil
	})
}

// raise replaces every member's fence by what next makes of it.
func (c *Clock) raise(ctx context.Context, next func(fence) (fence, error)) error {
	return c.eachMember(ctx, func(ctx context.Context, _ int, m Member) error {
		now, err := readFence(ctx, m)
		for err == nil {
			var to fence
			if to, err = next(now); err != nil || to.epoch == now.epoch && to.f == now.f {
				return err
			}
			now, err = swapFence(ctx, m, now, to)
		}
		return err
	})
}

// base returns the highest number that any member has shown to anybody, as a stamp or as a fence. All members must be
// in the epoch: then nothing can land above it any more but what comes from that epoch's clock.
func (c *Clock) base(ctx context.Context, epoch int64) (int64, error) {
	shown := make([]int64, len(c.cfg.Members))
	err := c.eachMember(ctx, func(ctx context.Context, i int, m Member) error {
		resp, err := m.KV.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{readFenceOp, readClockOp}})
		if err != nil {
			return err
		}
		now, err := parseFence(resp.Responses[0].GetResponseRange())
		if err != nil {
			return err
		}
		if now.epoch != epoch {
			return errStartOver
		}
		kvs := resp.Responses[1].GetResponseRange().GetKvs()
		if len(kvs) == 0 {
			return errMissing
		}
		clock, err := record.ParseClock(kvs[0].Value)
		shown[i] = max(now.f, clock.Highest)
		return err
	})
	return maximum(shown), err
}

var (
	readFenceOp = request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)})
	readClockOp = request.Range(&pb.RangeRequest{Key: []byte(record.KeyClock)})
)

func readFence(ctx context.Context, m Member) (fence, error) {
	resp, err := m.KV.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyFence)})
	if err != nil {
		return fence{}, err
	}
	return parseFence(resp)
}

// swapFence replaces the fence if it still is `from`. It returns the fence as it is after that.
func swapFence(ctx context.Context, m Member, from, to fence) (fence, error) {
	to.raw = record.Pair(to.epoch, to.f)
	resp, err := m.KV.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{valueIs(record.KeyFence, from.raw)},
		Success: []*pb.RequestOp{put(record.KeyFence, to.raw)},
		Failure: []*pb.RequestOp{readFenceOp},
	})
	switch {
	case err != nil:
		return fence{}, err
	case resp.Succeeded:
		return to, nil
	}
	return parseFence(resp.Responses[0].GetResponseRange())
}

var errMissing = fmt.Errorf("%w: a record of the member is missing", record.ErrMalformed)

func parseFence(resp *pb.RangeResponse) (now fence, err error) {
	if len(resp.Kvs) == 0 {
		return now, errMissing
	}
	now.raw = resp.Kvs[0].Value
	now.epoch, now.f, err = record.ParsePair(now.raw)
	return now, err
}

func maximum(ns []int64) (highest int64) {
	for _, n := range ns {
		highest = max(highest, n)
	}
	return highest
}
