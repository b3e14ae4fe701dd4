package crosstxn

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// A transaction that needs a whole member takes it from everybody else while it waits for slots that others have locked. These may
// wait for a member that is away: so it gives the member back, again and again, and most of the time others can write there.
func TestAWholeMemberIsNotHeldForLong(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		stuck := w.start().locked(w.plan("stuck"), 0, 1)
		p := w.start()
		answered := make(chan error, 1)
		p.life.Spawn(func() {
			_, err := p.Run(t.Context(), translate.NewPlan(&pb.TxnRequest{Success: []*pb.RequestOp{
				request.Delete(&pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}),
				request.Put(&pb.PutRequest{Key: []byte("z"), Value: []byte("written")}),
			}}, w.ring))
			answered <- err
		})
		const looks, every = 1000, 20 * time.Millisecond
		held, row, longest := 0, 0, 0
		for range looks {
			time.Sleep(every)
			row++
			if !w.reserved() {
				row = 0
			}
			longest = max(longest, row)
			held += min(row, 1)
		}
		require.NotZero(t, held, "it tries")
		require.LessOrEqual(t, time.Duration(longest)*every, 2*reserveFor, "on one member, and then perhaps on the next")
		require.Less(t, held, looks/4)

		stuck.giveBack()
		synctest.Wait()
		require.NoError(t, <-answered)
		require.Empty(t, w.locks())
	})
}

// reserved reports whether some member is locked as a whole.
func (w *world) reserved() bool {
	for _, l := range w.feed.Log.Locks() {
		if l.Slot == mergedlog.Whole {
			return true
		}
	}
	return false
}
