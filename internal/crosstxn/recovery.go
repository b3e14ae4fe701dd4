package crosstxn

import (
	"bytes"
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// resolve finishes the transaction of a writer that has gone, if it is decided, and gives it up otherwise. Its locks on the
// primary go first: without them it cannot be decided any more. Where none are found there, and no decision either, there
// never will be one: the primary is locked before the others.
func (k *resolver) resolve(ctx context.Context, h record.Holder) error {
	c := k.c
	if h.Primary >= len(c.cfg.Members) {
		return fmt.Errorf("metaetcd: a lock names member %d, of %d", h.Primary, len(c.cfg.Members))
	}
	primary := c.cfg.Members[h.Primary]
	for taken := false; !taken; {
		st, err := k.readHeld(ctx, primary, h)
		if err != nil {
			return err
		}
		if st.decision != nil {
			c.cfg.OnRollForward()
			return c.rollForward(ctx, h, *st.decision)
		}
		if st.free() {
			break
		}
		if taken, err = c.takeLocks(ctx, primary, h, st); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range c.cfg.Members {
		if m != primary {
			g.Go(func() error { return k.giveUpOn(gctx, m, h) })
		}
	}
	return g.Wait()
}

// giveUpOn takes the locks of a transaction that cannot be decided any more, as far as the member's stream shows them: what it
// has not shown yet is seen later.
func (k *resolver) giveUpOn(ctx context.Context, m *member.Member, h record.Holder) error {
	for taken := false; !taken && !k.heldOn(m, h).free(); {
		st, err := k.readHeld(ctx, m, h)
		if err != nil || st.free() {
			return err
		}
		if taken, err = k.c.takeLocks(ctx, m, h, st); err != nil {
			return err
		}
	}
	return nil
}

// takeLocks takes locks from an undecided transaction, and reports whether it has taken all. If not, the caller looks again.
func (c *Runner) takeLocks(ctx context.Context, m *member.Member, h record.Holder, st heldState) (bool, error) {
	taken, err := c.tryTakeLocks(ctx, m, h, st)
	if taken {
		c.cfg.OnAbort()
	}
	return taken, err
}

// tryTakeLocks is takeLocks, uncounted. Slots get a stamp that is younger than whatever landed on them.
func (c *Runner) tryTakeLocks(ctx context.Context, m *member.Member, h record.Holder, st heldState) (bool, error) {
	if st.whole {
		resp, err := m.Txn(ctx, translate.Hold{Holder: h, Whole: true, Leases: st.leases}.Abort(st.epoch, 0, c.cfg.MaxTxnOps))
		return err == nil && resp.Succeeded, err
	}
	slots := st.slots[:min(len(st.slots), translate.Width(c.cfg.MaxTxnOps)-1)]
	s, err := c.cfg.Commit.Take(ctx)
	if err != nil {
		return false, err
	}
	resp, err := m.Txn(ctx, translate.Hold{Holder: h, Slots: slots, Leases: st.leases}.Abort(s.Epoch, s.Rev, c.cfg.MaxTxnOps))
	switch {
	case err == nil && resp.Succeeded:
		c.cfg.Commit.Landed(s)
		return len(slots) == len(st.slots), nil
	case err == nil: // somebody else was first, or the epoch has changed
		c.cfg.Commit.Surrender(s)
		_, err = c.cfg.Clock.Sync(ctx)
		return false, err
	}
	// Refused for certain, or it leaves no mark if it does not land: the gap is others' to close.
	if commit.Definite(err) {
		c.cfg.Commit.Surrender(s)
	} else {
		c.cfg.Commit.Landed(s)
	}
	return false, err
}

// heldState is what a transaction has on a member.
type heldState struct {
	epoch    int64
	decision *record.Decision
	whole    bool
	slots    []int
	leases   []int64
}

func (s heldState) free() bool { return !s.whole && len(s.slots) == 0 }

// readHeld finds out what a transaction has on the member: the locks from the member's stream, once that has come as far as
// the member is now, and then the rest from the member itself. In this order, locks that are gone and a decision that is not
// there mean that there will be none: were it the other way round, it could have been made in between.
func (k *resolver) readHeld(ctx context.Context, m *member.Member, h record.Holder) (st heldState, err error) {
	rev, err := m.Revision(ctx)
	if err != nil {
		return st, err
	}
	if err := k.view.WaitReached(ctx, m.Index, rev); err != nil {
		return st, err
	}
	st = k.heldOn(m, h)
	leases, leasesEnd := record.AllHeldRange()
	resp, err := m.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		request.Range(&pb.RangeRequest{Key: leases, RangeEnd: leasesEnd}),
		request.Range(&pb.RangeRequest{Key: record.TxnKey(h.ID)}),
		request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)}),
	}})
	if err != nil {
		return st, err
	}
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		if bytes.Equal(record.HeldBy(kv.Key), h.ID[:]) {
			st.leases = append(st.leases, record.LeaseOf(kv.Key))
		}
	}
	for _, kv := range resp.Responses[1].GetResponseRange().GetKvs() {
		d, err := record.ParseDecision(kv.Value)
		if err != nil {
			return st, err
		}
		st.decision = &d
	}
	for _, kv := range resp.Responses[2].GetResponseRange().GetKvs() {
		if st.epoch, _, err = record.ParsePair(kv.Value); err != nil {
			return st, err
		}
	}
	return st, nil
}

// heldOn returns the locks of a transaction on the member, as the member's stream shows them.
func (k *resolver) heldOn(m *member.Member, h record.Holder) (st heldState) {
	for _, l := range k.view.Locks() {
		switch {
		case l.Member != m.Index || l.ID != h.ID:
		case l.Slot == mergedlog.Whole:
			st.whole = true
		default:
			st.slots = append(st.slots, l.Slot)
		}
	}
	return st
}
