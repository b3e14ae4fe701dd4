package crosstxn

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// removal deletes a range that has keys of both members: it needs them as a whole.
func (w *world) removal() *translate.Plan {
	return translate.NewPlan(&pb.TxnRequest{Success: []*pb.RequestOp{
		request.Delete(&pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}),
	}}, w.ring)
}

// begin lets a transaction of a process lock what it needs.
func (p *process) begin(plan *translate.Plan) (x *crossing, ended <-chan error) {
	x = p.newCrossing(plan)
	x.begin()
	done := make(chan error, 1)
	p.life.Spawn(func() { done <- x.lock(p.life.Context(), p.w.feed) })
	synctest.Wait()
	return x, done
}

// Who needs a whole member of which slots are locked reserves it, so that nobody locks more of them, and goes on when they are free.
func TestAMemberIsReserved(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		_, err := w.start().Run(t.Context(), w.plan("old"))
		require.NoError(t, err)
		synctest.Wait()
		other := w.start().locked(w.plan("other"), 1)
		p := w.start()
		ended := make(chan error, 1)
		p.life.Spawn(func() {
			_, err := p.Run(p.life.Context(), w.removal())
			ended <- err
		})
		synctest.Wait()
		require.Empty(t, ended)
		require.ElementsMatch(t, []int{0, 1, 1}, w.locks(), "both members, and the slot that was locked before")
		require.Zero(t, p.waits.Load(), "it gives nothing back meanwhile")

		late := w.start()
		x := late.newCrossing(w.plan("late"))
		x.begin()
		var held *heldError
		require.ErrorAs(t, x.lockShare(t.Context(), w.feed, 1), &held, "no more of the member's slots are locked")

		other.abandon()
		require.NoError(t, <-ended)
		synctest.Wait()
		require.Equal(t, []string{"", ""}, []string{w.value(0), w.value(1)})
		require.Empty(t, w.locks())
		require.Zero(t, w.stamps.count("taken"))
	})
}

// A member that was reserved is read only under the reservation: who has lost it starts over, and asks for more patience.
func TestAReservationThatWasTakenIsLost(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		other := w.start().locked(w.plan("other"), 1)
		x, ended := w.start().begin(w.removal())
		require.Empty(t, ended)
		require.NoError(t, w.start().resolver.resolve(t.Context(), x.holder))
		other.abandon()
		require.ErrorIs(t, <-ended, errAgain)
		require.Equal(t, 2*feed.MinPatience, x.patience)
		require.Empty(t, w.locks())
	})
}

// The log may end while a transaction waits under its reservation: there will be another one.
func TestAReservationOutlivesTheLog(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.start().locked(w.plan("other"), 1)
		_, ended := w.start().begin(w.removal())
		require.Empty(t, ended)
		w.feed.Log.Fail(mergedlog.ErrOverrun)
		require.ErrorIs(t, <-ended, errAgain)
	})
}

const lease = 7

// leased puts a value at one key of each member, under a lease; or keeps the keys' lease.
func (w *world) leased(value string, keep bool) *translate.Plan {
	req := &pb.TxnRequest{}
	for i := range w.servers {
		put := &pb.PutRequest{Key: w.keyOn(i), Value: []byte(value), IgnoreLease: keep}
		if !keep {
			put.Lease = lease
		}
		req.Success = append(req.Success, request.Put(put))
	}
	return translate.NewPlan(req, w.ring)
}

// grant makes the members' records of the lease.
func (w *world) grant(rec record.LeaseRecord) {
	for _, s := range w.servers {
		_, err := s.Client(nil).Put(w.t.Context(), &pb.PutRequest{Key: record.LeaseKey(lease), Value: rec.Encode()})
		require.NoError(w.t, err)
	}
}

// holders is how many transactions hold the lease, by member.
func (w *world) holders() (n []int) {
	key, end := record.HeldRange(lease)
	for _, s := range w.servers {
		resp, err := s.Client(nil).Range(w.t.Context(), &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: true})
		require.NoError(w.t, err)
		n = append(n, int(resp.Count))
	}
	return n
}

// leaseOf is the lease of the key of plan on a member.
func (w *world) leaseOf(member int) int64 {
	h, _, err := record.ParseHeader(w.servers[member].Get(string(w.keyOn(member))))
	require.NoError(w.t, err)
	return h.Lease
}

// A transaction holds its leases with its locks: they are let go with the parts, when it gives up, and when somebody else gives it up.
func TestLeasesAreHeldWithTheLocks(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.grant(record.LeaseRecord{Grant: 1, TTL: 60})
		p := w.start()
		x := p.locked(w.leased("never", false), 0, 1)
		require.Equal(t, []int{1, 1}, w.holders())
		x.abandon()
		require.Equal(t, []int{0, 0}, w.holders())

		x = p.locked(w.leased("never", false), 0, 1)
		p.open.Delete(x.holder.ID) // its writer has gone
		w.start().resolve()
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.locks())
		require.Equal(t, []int{0, 0}, w.holders())

		_, err := p.Run(t.Context(), w.leased("new", false))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []int{0, 0}, w.holders())
		for i := range w.servers {
			require.Equal(t, "new", w.value(i))
			require.EqualValues(t, lease, w.leaseOf(i))
		}
	})
}

// Which leases keys keep is known only under the locks: the next attempt holds these as well.
func TestKeptLeasesAreHeldInTheNextAttempt(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.grant(record.LeaseRecord{Grant: 1, TTL: 60})
		p := w.start()
		_, err := p.Run(t.Context(), w.leased("old", false))
		require.NoError(t, err)
		synctest.Wait()
		w.forget()
		_, err = p.Run(t.Context(), w.leased("new", true))
		require.NoError(t, err)
		synctest.Wait()
		var holds []bool // of the requests that lock the primary
		for _, wr := range w.tried() {
			if locks, held := lockedBy(wr.req); wr.member == 0 && locks {
				holds = append(holds, held)
			}
		}
		require.Equal(t, []bool{false, true}, holds)
		require.Equal(t, []int{0, 0}, w.holders())
		for i := range w.servers {
			require.Equal(t, "new", w.value(i))
			require.EqualValues(t, lease, w.leaseOf(i))
		}
	})
}

// lockedBy reports whether a request locks slots, and whether it holds the lease with them.
func lockedBy(req *pb.TxnRequest) (locks, holds bool) {
	for _, op := range req.Success {
		if nested := op.GetRequestTxn(); nested != nil {
			l, h := lockedBy(nested)
			locks, holds = locks || l, holds || h
		}
		put := op.GetRequestPut()
		switch record.KindOf(put.GetKey()) {
		case record.Held:
			holds = true
		case record.Slot:
			_, held, err := record.ParseHolder(put.Value)
			locks = locks || err == nil && held
		}
	}
	return locks, holds
}

// Nothing is attached to a lease that has ended: the transaction gives everything back before it finds out what becomes of it.
func TestALeaseThatHasEndedTakesNoKeys(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.grant(record.LeaseRecord{Grant: 1, TTL: 60, Dead: true})
		w.unstamped = rpctypes.ErrGRPCLeaseNotFound
		_, err := w.start().Run(t.Context(), w.leased("never", false))
		require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
		require.Empty(t, w.locks())
		require.Equal(t, []int{0, 0}, w.holders())
		require.Empty(t, w.value(0))
		require.Zero(t, w.stamps.count("landed"), "it has taken no stamp")
	})
}
