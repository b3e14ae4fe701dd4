package clock

import (
	"bytes"
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/request"
)

// epochState is an epoch record that this process works with. Immutable.
type epochState struct {
	rec     epochRecord
	raw     []byte
	compare []*pb.Compare
}

// Epoch returns the epoch that this process works in; 0 before Open. It never decreases.
func (c *Clock) Epoch() int64 {
	if in := c.epoch.Load(); in != nil {
		return in.rec.Epoch
	}
	return 0
}

// Present returns the epoch that this process works in, and what a transaction on the coordinator compares to take place in
// it: it fails when the coordinator has lost its data, or is in another epoch, of which Sync then learns. The compares are
// shared and read-only. Before Open they hold nowhere.
func (c *Clock) Present() (epoch int64, holds []*pb.Compare) {
	in := c.epoch.Load()
	if in == nil {
		return 0, []*pb.Compare{valueIs(keyEpoch, nil)}
	}
	return in.rec.Epoch, in.compare
}

// EpochChanged returns a channel that is closed when the epoch changes next.
func (c *Clock) EpochChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Open makes first contact: it refuses a coordinator that is not this meta cluster's alone, moves to its epoch, and
// creates the clock if there is none. All members must answer. It retries until ctx ends.
func (c *Clock) Open(ctx context.Context) error {
	return c.persist(ctx, func(ctx context.Context) error {
		if _, err := Inspect(ctx, c.cfg.Coordinator, c.cfg.ClusterID); err != nil {
			return err
		}
		return c.verify(ctx, nil)
	})
}

// Sync is for a caller to whom a member answered with another epoch than the clock's: it moves to the coordinator's
// epoch, rebuilds the clock if it is gone or behind its members, and returns the epoch to go on in. It retries until
// ctx ends.
func (c *Clock) Sync(ctx context.Context) (epoch int64, err error) {
	in := c.epoch.Load()
	if in == nil {
		return 0, errNotOpen
	}
	// Mostly the clock has moved on, which a read, shared by all who ask, finds out.
	if _, epoch, err = c.Read(ctx); err != nil || epoch != in.rec.Epoch {
		return epoch, err
	}
	err = c.persist(ctx, func(ctx context.Context) error { return c.verify(ctx, in) })
	return c.Epoch(), err
}

// persist repeats an attempt until it succeeds, its error is permanent, or ctx or the clock ends.
func (c *Clock) persist(ctx context.Context, attempt func(context.Context) error) error {
	ctx, cancel := c.life.Within(ctx)
	defer cancel()
	var last error
	for retry := (backoff.Backoff{}); ; {
		err := attempt(ctx)
		if err == nil || permanent(err) {
			return err
		}
		last = backoff.Last(ctx, last, err)
		if !retry.Wait(ctx) {
			if c.life.Over() {
				return ErrClosed
			}
			return fmt.Errorf("metaetcd: opening the clock: %w (last error: %w)", ctx.Err(), last)
		}
	}
}

// verify checks the epoch that a process is in (nil: none yet) against the members and the coordinator.
//
// The order matters: no member is raised to an epoch before that epoch's claim is on the coordinator, in a life of it
// that starts without an epoch record. So a record read after the members, and below them, is from an older life.
func (c *Clock) verify(ctx context.Context, in *epochState) error {
	return c.settling(ctx, in, func() error {
		highest, err := c.highestEpoch(ctx)
		if err != nil {
			return err
		}
		found, err := c.readRecords(ctx)
		if err != nil {
			return err
		}
		return c.settle(ctx, found, highest)
	})
}

// follow leaves an epoch that the coordinator is not in any more; found is what it held then.
func (c *Clock) follow(ctx context.Context, in *epochState, found *records) error {
	return c.settling(ctx, in, func() error { return c.settle(ctx, found, 0) })
}

// discard leaves an epoch whose clock cannot be trusted, for a reason that the operator should know.
func (c *Clock) discard(ctx context.Context, in *epochState, reason string, fields ...zap.Field) error {
	return c.settling(ctx, in, func() error {
		if err := c.destroy(ctx, valueIs(keyEpoch, in.raw), reason, fields...); err != nil {
			return err
		}
		return c.rebuild(ctx)
	})
}

// settling runs f unless somebody else has left the epoch `in` meanwhile. One f runs at a time.
func (c *Clock) settling(ctx context.Context, in *epochState, f func() error) error {
	select {
	case c.recovery <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.recovery }()
	if c.epoch.Load() != in {
		return nil
	}
	return f()
}

// settle moves to the epoch that the coordinator was found in, or to a new one. An epoch below one that a member has
// seen, or not above the one that this process was in, is a restored coordinator's. The caller holds recovery.
func (c *Clock) settle(ctx context.Context, found *records, highest int64) error {
	if err := found.check(c.cfg.ClusterID); err != nil {
		return err
	}
	if found.epochRaw == nil {
		return c.rebuild(ctx)
	}
	in := c.epoch.Load()
	if in != nil && bytes.Equal(in.raw, found.epochRaw) {
		highest = max(highest, in.rec.Epoch)
	} else {
		highest = max(highest, c.Epoch()+1)
	}
	if found.epoch.Epoch < highest {
		err := c.destroy(ctx, valueIs(keyEpoch, found.epochRaw), "the coordinator went back to an older epoch",
			zap.Int64("epoch", found.epoch.Epoch), zap.Int64("at_least", highest))
		if err != nil {
			return err
		}
		return c.rebuild(ctx)
	}
	if in == nil || found.epoch.Epoch > in.rec.Epoch {
		c.adopt(found)
	}
	return nil
}

// destroy deletes a clock that cannot be trusted, unless the guard shows that somebody else has done it.
func (c *Clock) destroy(ctx context.Context, guard *pb.Compare, reason string, fields ...zap.Field) error {
	c.log.Error(reason+"; was it restored from a snapshot? Creating a new clock", fields...)
	_, err := c.exchange(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{guard},
		Success: []*pb.RequestOp{request.Delete(&pb.DeleteRangeRequest{Key: []byte(clockPrefix), RangeEnd: []byte(clockEnd)})},
	})
	return err
}

// adopt moves to the epoch of a record that was found on the coordinator.
func (c *Clock) adopt(found *records) {
	c.epoch.Store(&epochState{
		rec: found.epoch, raw: found.epochRaw,
		compare: []*pb.Compare{valueIs(keyEpoch, found.epochRaw)},
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Clock) readRecords(ctx context.Context) (*records, error) {
	resp, err := c.exchange(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{readRecords}})
	if err != nil {
		return nil, err
	}
	return parseRecords(resp.Responses[0].GetResponseRange().Kvs)
}
