package clock

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/request"
)

// rebuild creates the clock of a new epoch on a coordinator that has none, from what the members hold, or adopts the
// one that somebody else created meanwhile. Any number of processes may do it at once, on a coordinator that is wiped
// again and again. A new meta cluster is the same: its members are at epoch 0, and say that the clock stands at 1.
//
//  1. Incarnation: a random nonce, create-only, names this life of the coordinator's data.
//  2. Claim: after that, the epochs of all members are read, and the next one is claimed, create-only, guarded by the
//     nonce. So no two lives claim the same epoch: a claim that came to be before this life began shows in the members
//     if it ever had a clock, because of steps 3 and 5.
//  3. Every member is raised to the claim: from here on, nothing of an older epoch lands.
//  4. Base: after that, the members' highest stamps and fences are read. Nothing above them was ever shown to anybody. What
//     else is kept on the coordinator is restored from the members (Config.Restore).
//  5. The clock is created at that base, guarded by nonce and claim.
//
// A process that fails a step starts over. The caller holds recovery.
func (c *Clock) rebuild(ctx context.Context) error {
	found, err := c.incarnate(ctx)
	if err != nil {
		return err
	}
	if found.epochRaw != nil {
		return c.settle(ctx, found, 0)
	}
	if err := found.check(c.cfg.ClusterID); err != nil {
		return err
	}
	life := found.incarnationRaw
	claim, err := c.claim(ctx, life)
	if err != nil {
		return err
	}
	if err := c.raiseEpochs(ctx, claim); err != nil {
		return err
	}
	base, err := c.base(ctx, claim)
	if err != nil {
		return err
	}
	if c.cfg.Restore != nil {
		// Where there is a clock, what is missing besides it has ended since: this process was late.
		if err := c.cfg.Restore(ctx, []*pb.Compare{valueIs(keyIncarnation, life), absent(keyEpoch)}); err != nil {
			return err
		}
	}
	rec := epochRecord{Epoch: claim, Base: base, Nonce: found.incarnation.Nonce, Cluster: c.cfg.ClusterID}
	found, created, err := c.create(ctx, life, rec)
	if err != nil {
		return err
	}
	if created {
		c.log.Info("the coordinator has a new clock", zap.Int64("epoch", claim), zap.Int64("revision", base))
		if c.cfg.Hooks.Rebuilt != nil {
			c.cfg.Hooks.Rebuilt(claim, base)
		}
		c.raiseBehind(claim, base) //nolint:contextcheck // behind its back, also when it has left
	}
	return c.settle(ctx, found, 0)
}

// incarnate gives this life of the coordinator a nonce, unless it has one, and returns what the coordinator holds.
func (c *Clock) incarnate(ctx context.Context) (*records, error) {
	mine := incarnationRecord{Nonce: rand.Text(), Cluster: c.cfg.ClusterID}
	found, _, err := c.createOnly(ctx, keyIncarnation, nil, put(keyIncarnation, mine.encode()))
	return found, err
}

// claim returns the epoch that was claimed in this life of the coordinator, claiming one if need be.
func (c *Clock) claim(ctx context.Context, life []byte) (int64, error) {
	// Only now that the life is fixed: epochs read before it could miss a life in between, and claim its epoch again.
	highest, err := c.highestEpoch(ctx)
	if err != nil {
		return 0, err
	}
	found, _, err := c.createOnly(ctx, keyClaim, []*pb.Compare{valueIs(keyIncarnation, life)},
		put(keyClaim, encodeClaim(highest+1)))
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(found.incarnationRaw, life) || found.claimRaw == nil {
		return 0, errStartOver
	}
	if found.claim < highest {
		// Claims grow from life to life, and no member is above the last: this life is an old one, restored.
		err := c.destroy(ctx, valueIs(keyIncarnation, life), "the coordinator went back to an older epoch",
			zap.Int64("epoch", found.claim), zap.Int64("at_least", highest))
		return 0, errors.Join(errStartOver, err)
	}
	return found.claim, nil
}

// create creates the clock and returns the records of the one that is there now, whose ever it is.
func (c *Clock) create(ctx context.Context, life []byte, rec epochRecord) (found *records, created bool, err error) {
	ops := []*pb.RequestOp{put(keyEpoch, rec.encode())}
	for _, key := range digitKeys {
		ops = append(ops, request.Put(&pb.PutRequest{Key: key}))
	}
	guard := []*pb.Compare{valueIs(keyIncarnation, life), valueIs(keyClaim, encodeClaim(rec.Epoch))}
	found, created, err = c.createOnly(ctx, keyEpoch, guard, ops...)
	if err == nil && found.epochRaw == nil {
		err = errStartOver
	}
	return found, created, err
}

// createOnly runs ops if key is absent and guard holds. It returns the records as they are then.
func (c *Clock) createOnly(ctx context.Context, key string, guard []*pb.Compare, ops ...*pb.RequestOp) (*records, bool, error) {
	resp, err := c.exchange(ctx, &pb.TxnRequest{
		Compare: append(guard, absent(key)),
		Success: append(ops, readRecords),
		Failure: []*pb.RequestOp{readRecords},
	})
	if err != nil {
		return nil, false, err
	}
	found, err := parseRecords(resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs)
	if err != nil {
		return nil, false, fmt.Errorf("metaetcd: rebuilding the clock: %w", err)
	}
	return found, resp.Succeeded, nil
}

// raiseBehind raises every member's fence to the base of a new epoch, behind the caller's back: it closes at once the
// stamps of older epochs that never landed, which readers would wait for. Nothing depends on it.
func (c *Clock) raiseBehind(epoch, base int64) {
	c.life.Spawn(func() {
		if err := c.raiseFences(c.life.Context(), epoch, base); err != nil {
			c.log.Debug("fences were not raised to the new epoch's base", zap.Error(err))
		}
	})
}
