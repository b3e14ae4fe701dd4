package metaetcd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// lockTick is how often locks are looked at while there are any.
const lockTick = 20 * time.Millisecond

// lockKeeper finishes the transactions of writers that have gone (section 12): locks that the members' streams show for
// longer than their writer asked for, and longer than the grace, are followed to their decision, and it is applied; or, if
// there is none, there never will be, and the locks are released.
type lockKeeper struct {
	f     *feed
	woken chan struct{}

	mu   sync.Mutex
	busy map[record.TxnID]struct{} // being finished

	seen map[record.TxnID]time.Time // due; of the run goroutine
}

func newLockKeeper(f *feed) *lockKeeper {
	return &lockKeeper{f: f, woken: make(chan struct{}, 1), busy: map[record.TxnID]struct{}{}, seen: map[record.TxnID]time.Time{}}
}

// kick makes the keeper look, if there are locks. It is cheap.
func (k *lockKeeper) kick() {
	if k.f.log.Locked() == 0 {
		return
	}
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

func (k *lockKeeper) run() {
	defer k.f.wg.Done()
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		select {
		case <-k.woken:
		case <-k.f.ctx.Done():
			return
		}
		for k.look(time.Now()) {
			select {
			case <-tick.C:
			case <-k.f.ctx.Done():
				return
			}
		}
	}
}

// look finishes what is due. It reports whether there are locks.
func (k *lockKeeper) look(now time.Time) bool {
	if k.f.c.ctx.Err() != nil { // its requests are not sent any more
		return false
	}
	locks := k.f.log.Locks()
	held := map[record.TxnID]bool{}
	for _, l := range locks {
		if held[l.ID] {
			continue
		}
		held[l.ID] = true
		due, known := k.seen[l.ID]
		if _, own := k.f.c.crossings.Load(l.ID); own || !known {
			// Several processes see it: one of them will be first.
			due = now.Add(max(l.Patience, k.f.gaps.Grace()) + rand.N(minPatience))
			k.seen[l.ID] = due
		}
		if now.After(due) {
			k.finish(l.Holder)
		}
	}
	for id := range k.seen {
		if !held[id] {
			delete(k.seen, id)
		}
	}
	return len(locks) > 0
}

// finish finishes a transaction, beside others.
func (k *lockKeeper) finish(h record.Holder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, busy := k.busy[h.ID]; busy {
		return
	}
	k.busy[h.ID] = struct{}{}
	k.f.wg.Go(func() {
		if err := k.f.resolve(k.f.ctx, h); err != nil && k.f.ctx.Err() == nil {
			k.f.c.cfg.Logger.Info("could not finish a transaction whose writer has gone", zap.Error(err))
		}
		k.mu.Lock()
		delete(k.busy, h.ID)
		k.mu.Unlock()
	})
}

// resolve finishes the transaction of a writer that has gone, if it is decided, and gives it up otherwise. Its locks on the
// primary go first: without them it cannot be decided any more. Where none are found there, and no decision either, there
// never will be one: the primary is locked before the others.
func (f *feed) resolve(ctx context.Context, h record.Holder) error {
	c := f.c
	if h.Primary >= len(c.members) {
		return fmt.Errorf("metaetcd: a lock names member %d, of %d", h.Primary, len(c.members))
	}
	primary := c.members[h.Primary]
	for taken := false; !taken; {
		st, err := f.readHeld(ctx, primary, h)
		if err != nil {
			return err
		}
		if st.decision != nil {
			c.metrics.rollForwards.Inc()
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
	for _, m := range c.members {
		if m != primary {
			g.Go(func() error { return f.giveUpOn(gctx, m, h) })
		}
	}
	return g.Wait()
}

// giveUpOn takes the locks of a transaction that cannot be decided any more, as far as the member's stream shows them: what it
// has not shown yet is seen later.
func (f *feed) giveUpOn(ctx context.Context, m *member, h record.Holder) error {
	for taken := false; !taken && !f.heldOn(m, h).free(); {
		st, err := f.readHeld(ctx, m, h)
		if err != nil || st.free() {
			return err
		}
		if taken, err = f.c.takeLocks(ctx, m, h, st); err != nil {
			return err
		}
	}
	return nil
}

// takeLocks takes locks from an undecided transaction, and reports whether it has taken all. If not, the caller looks again.
func (c *core) takeLocks(ctx context.Context, m *member, h record.Holder, st heldState) (bool, error) {
	taken, err := c.tryTakeLocks(ctx, m, h, st)
	if taken {
		c.metrics.aborts.Inc()
	}
	return taken, err
}

// tryTakeLocks is takeLocks, uncounted. Slots get a stamp that is younger than whatever landed on them.
func (c *core) tryTakeLocks(ctx context.Context, m *member, h record.Holder, st heldState) (bool, error) {
	if st.whole {
		resp, err := m.txn(ctx, translate.Hold{Holder: h, Whole: true, Leases: st.leases}.Abort(st.epoch, 0, c.cfg.MemberTxnOps))
		return err == nil && resp.Succeeded, err
	}
	slots := st.slots[:min(len(st.slots), translate.Width(c.cfg.MemberTxnOps)-1)]
	s, err := c.commit.Take(ctx)
	if err != nil {
		return false, err
	}
	resp, err := m.txn(ctx, translate.Hold{Holder: h, Slots: slots, Leases: st.leases}.Abort(s.Epoch, s.Rev, c.cfg.MemberTxnOps))
	switch {
	case err == nil && resp.Succeeded:
		c.commit.Landed(s)
		return len(slots) == len(st.slots), nil
	case err == nil: // somebody else was first, or the epoch has changed
		c.commit.Surrender(s)
		_, err = c.clock.Sync(ctx)
		return false, err
	}
	// Refused for certain, or it leaves no mark if it does not land: the gap is others' to close.
	if commit.Definite(err) {
		c.commit.Surrender(s)
	} else {
		c.commit.Landed(s)
	}
	return false, err
}

// rollForward applies the parts of a decided transaction and removes the decision. Every step may be repeated, by anybody. It
// tries until ctx ends.
func (c *core) rollForward(ctx context.Context, h record.Holder, d record.Decision) error {
	if err := c.applyAll(ctx, d.Parts, func(int) {}); err != nil {
		return err
	}
	return c.insist(ctx, h.Primary, removeDecisions([]record.TxnID{h.ID}))
}

func (c *core) applyPart(ctx context.Context, p record.DecidedPart, tried func(error)) error {
	req := &pb.TxnRequest{}
	if err := proto.Unmarshal(p.Txn, req); err != nil {
		return err
	}
	return c.insist(ctx, p.Member, req, tried)
}

// insist sends a request until the member answers it: one that may be sent any number of times. It calls tried after every
// attempt, with the attempt's error.
func (c *core) insist(ctx context.Context, member int, req *pb.TxnRequest, tried ...func(error)) error {
	m := c.members[member]
	for warned := false; ; {
		sending, cancel := c.lingering(c.cfg.MemberTimeout)
		_, err := m.send(sending, req) //nolint:contextcheck // what is under way is finished
		cancel()
		for _, f := range tried {
			f(err)
		}
		if err == nil {
			return nil
		}
		m.away.Store(true)
		if refused := commit.Definite(err) || commit.OutOfSpace(err); refused && !warned {
			warned = true
			c.cfg.Logger.Warn("a member refuses a part of a decided transaction; the closed revision stands still until it does not", zap.String("member", m.name), zap.Error(err))
		}
		c.cfg.Logger.Debug("a member did not take a decided part; trying again", zap.String("member", m.name), zap.Error(err))
		if pause(ctx, awayRetry) != nil {
			return err
		}
	}
}

// readDecided reads the decisions that are on the member.
func (m *member) readDecided(ctx context.Context) (map[record.TxnID]record.Decision, error) {
	key, end := record.TxnRange()
	resp, err := m.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: key, RangeEnd: end})}})
	if err != nil {
		return nil, wire.Name(m.name, err)
	}
	out := map[record.TxnID]record.Decision{}
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		id, err := record.TxnOf(kv.Key)
		if err != nil {
			return nil, err
		}
		if out[id], err = record.ParseDecision(kv.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
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
func (f *feed) readHeld(ctx context.Context, m *member, h record.Holder) (st heldState, err error) {
	rev, err := m.present(ctx)
	if err != nil {
		return st, err
	}
	if err := f.log.WaitReached(ctx, m.index, rev); err != nil {
		return st, err
	}
	st = f.heldOn(m, h)
	leases, leasesEnd := record.AllHeldRange()
	resp, err := m.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		rangeOp(&pb.RangeRequest{Key: leases, RangeEnd: leasesEnd}),
		rangeOp(&pb.RangeRequest{Key: record.TxnKey(h.ID)}),
		rangeOp(&pb.RangeRequest{Key: []byte(record.KeyFence)}),
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
func (f *feed) heldOn(m *member, h record.Holder) (st heldState) {
	for _, l := range f.log.Locks() {
		switch {
		case l.Member != m.index || l.ID != h.ID:
		case l.Slot == mergedlog.Whole:
			st.whole = true
		default:
			st.slots = append(st.slots, l.Slot)
		}
	}
	return st
}

// heldIn finds the locks among records that were read: of slots, and of the member.
func heldIn(member int, rs []*pb.ResponseOp) []mergedlog.Lock {
	var out []mergedlog.Lock
	for _, r := range rs {
		for _, kv := range r.GetResponseRange().GetKvs() {
			h, held, err := record.ParseHolder(kv.Value)
			if err != nil || !held {
				continue
			}
			slot := mergedlog.Whole
			if record.KindOf(kv.Key) == record.Slot {
				slot = record.SlotOf(kv.Key)
			}
			out = append(out, mergedlog.Lock{Member: member, Slot: slot, Held: true, Holder: h})
		}
	}
	return out
}
