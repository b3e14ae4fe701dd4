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
func (rs *resolver) resolve(ctx context.Context, h record.Holder) error {
	r := rs.runner
	at, err := r.cfg.Ring.Member(h.Primary)
	if err != nil {
		return fmt.Errorf("metaetcd: a lock names its primary: %w", err)
	}
	primary := r.cfg.Members[at]
	for taken := false; !taken; {
		st, err := rs.readHeld(ctx, primary, h)
		if err != nil {
			return err
		}
		if st.decision != nil {
			r.cfg.OnRollForward()
			return r.rollForward(ctx, h, *st.decision)
		}
		if st.free() {
			break
		}
		if taken, err = r.takeLocks(ctx, primary, h, st); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range r.cfg.Members {
		if m != primary {
			g.Go(func() error { return rs.giveUpOn(gctx, m, h) })
		}
	}
	return g.Wait()
}

// giveUpOn takes the locks of a transaction that cannot be decided any more, as far as the member's stream shows them: what it
// has not shown yet is seen later.
func (rs *resolver) giveUpOn(ctx context.Context, m *member.Member, h record.Holder) error {
	for taken := false; !taken && !rs.heldOn(m, h).free(); {
		st, err := rs.readHeld(ctx, m, h)
		if err != nil || st.free() {
			return err
		}
		if taken, err = rs.runner.takeLocks(ctx, m, h, st); err != nil {
			return err
		}
	}
	return nil
}

// takeLocks takes locks from an undecided transaction, and reports whether it has taken all. If not, the caller looks again.
func (r *Runner) takeLocks(ctx context.Context, m *member.Member, h record.Holder, st heldState) (bool, error) {
	taken, err := r.tryTakeLocks(ctx, m, h, st)
	if taken {
		r.cfg.OnAbort()
	}
	return taken, err
}

// tryTakeLocks is takeLocks, uncounted. Slots get a stamp that is younger than whatever landed on them.
func (r *Runner) tryTakeLocks(ctx context.Context, m *member.Member, h record.Holder, st heldState) (bool, error) {
	if st.whole {
		resp, err := m.Txn(ctx, translate.Hold{Holder: h, Whole: true, Leases: st.leases}.Abort(st.epoch, 0, 0, r.cfg.MaxTxnOps))
		return err == nil && resp.Succeeded, err
	}
	slots := st.slots[:min(len(st.slots), translate.Width(r.cfg.MaxTxnOps)-1)]
	s, err := r.cfg.Commit.Take(ctx)
	if err != nil {
		return false, err
	}
	resp, err := m.Txn(ctx, translate.Hold{Holder: h, Slots: slots, Leases: st.leases}.Abort(s.Epoch, s.Rev, r.cfg.Feeds.Closed(), r.cfg.MaxTxnOps))
	switch {
	case err == nil && resp.Succeeded:
		r.cfg.Commit.Landed(s)
		return len(slots) == len(st.slots), nil
	case err == nil: // somebody else was first, or the epoch has changed
		r.cfg.Commit.Surrender(s)
		_, err = r.cfg.Clock.Sync(ctx)
		return false, err
	}
	// Refused for certain, or it leaves no mark if it does not land: the gap is others' to close.
	if commit.Definite(err) {
		r.cfg.Commit.Surrender(s)
	} else {
		r.cfg.Commit.Landed(s)
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
func (rs *resolver) readHeld(ctx context.Context, m *member.Member, h record.Holder) (st heldState, err error) {
	rev, err := m.Revision(ctx)
	if err != nil {
		return st, err
	}
	if err := rs.view.WaitReached(ctx, m.Index, rev); err != nil {
		return st, err
	}
	st = rs.heldOn(m, h)
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
func (rs *resolver) heldOn(m *member.Member, h record.Holder) (st heldState) {
	for _, l := range rs.view.Locks() {
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
