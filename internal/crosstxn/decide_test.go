package crosstxn

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// decides reports whether a request decides a transaction.
func decides(req proto.Message) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, op := range txn.GetSuccess() {
		if nested := op.GetRequestTxn(); nested != nil && decides(nested) {
			return true
		}
		if put := op.GetRequestPut(); put != nil && record.KindOf(put.Key) == record.Txn {
			return true
		}
	}
	return false
}

var errUnsettled = errors.New("it cannot be settled now")

// What became of a decision whose answer was lost decides how the writer goes on: as if it had the answer, with another stamp, from the
// beginning, or not at all.
func TestADecisionWhoseAnswerIsLostIsSettled(t *testing.T) {
	for name, tt := range map[string]struct {
		arrives bool
		out     mergedlog.Outcome
		err     error
		want    error
		ends    map[string]int // of the stamps
		tries   int            // decisions that were sent
		locks   int            // requests for locks of the primary
	}{
		"it has landed":              {true, mergedlog.Outcome{Kind: mergedlog.Landed}, nil, nil, map[string]int{"landed": 1}, 1, 1},
		"it never will":              {false, mergedlog.Outcome{Kind: mergedlog.Dead}, nil, nil, map[string]int{"landed": 2}, 2, 1},
		"a fence was in its way":     {false, mergedlog.Outcome{Kind: mergedlog.Refused, Reason: manifest.Fenced}, nil, nil, map[string]int{"landed": 2}, 2, 1},
		"its locks had been taken":   {false, mergedlog.Outcome{Kind: mergedlog.Refused, Reason: manifest.Pinned}, nil, nil, map[string]int{"landed": 2}, 2, 2},
		"it was refused for certain": {false, mergedlog.Outcome{}, errUnsettled, errUnsettled, map[string]int{"surrendered": 1}, 1, 1},
		"nobody knows":               {true, mergedlog.Outcome{}, commit.ErrUnknown, commit.ErrUnknown, map[string]int{"landed": 1}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, w *world) {
				lost := atomic.Int64{}
				w.stamps.settle = func(st commit.Stamp) (mergedlog.Outcome, error) {
					require.Equal(t, lost.Load(), st.Rev)
					return tt.out, tt.err
				}
				w.setFault(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
					if !decides(req) || lost.Load() != 0 {
						return do()
					}
					w.stamps.mu.Lock()
					lost.Store(w.stamps.next - 1)
					w.stamps.mu.Unlock()
					if tt.arrives {
						if _, err := do(); err != nil {
							return nil, err
						}
					}
					return nil, etcdfake.ErrLost
				})
				p := w.start()
				_, err := p.Run(t.Context(), w.plan("new"))
				require.ErrorIs(t, err, tt.want)
				synctest.Wait()
				tries, locks := 0, 0
				for _, wr := range w.tried() {
					if decides(wr.req) {
						tries++
					} else if l, _ := lockedBy(wr.req); l && wr.member == 0 {
						locks++
					}
				}
				require.Equal(t, []int{tt.tries, tt.locks}, []int{tries, locks})
				for _, end := range []string{"taken", "landed", "surrendered"} {
					require.Equal(t, tt.ends[end], w.stamps.count(end), end)
				}
				switch {
				case tt.want == nil:
					require.Equal(t, []string{"new", "new"}, []string{w.value(0), w.value(1)})
					require.Empty(t, w.locks())
					require.EqualValues(t, 1, p.decided.Load())
				case errors.Is(tt.want, commit.ErrUnknown):
					require.Equal(t, []int{1}, w.locks(), "it may be decided: who finds the locks finds out")
				default:
					require.Empty(t, w.locks(), "it is not decided: everything is given back")
				}
			})
		})
	}
}

// A resolver asks for the locks first and for the decision then: were it the other way round, the decision could come in between, take
// the primary's locks with it, and leave the impression that there never will be one.
func TestLocksAreReadBeforeTheDecision(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		writer := w.start().locked(w.plan("new"), 0, 1)
		p := w.start()
		w.setRead(func(member int) {
			if member == 0 {
				w.setRead(nil)
				_, err := writer.decideNow(t)
				require.NoError(t, err)
			}
		})
		require.NoError(t, p.resolver.resolve(t.Context(), writer.holder))
		require.Equal(t, []string{"new", "new"}, []string{w.value(0), w.value(1)})
		require.Empty(t, w.locks())
		require.Zero(t, p.aborted.Load(), "nothing was taken from a transaction that is decided")
		require.EqualValues(t, 1, p.rolled.Load())
	})
}

// A stream that lags shows no lock that is there: a resolver waits until it has come as far as the member.
func TestLocksAreReadOffAStreamThatHasCaughtUp(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		thaw := w.hold(0)
		writer := w.start().locked(w.plan("never"), 0, 1)
		w.forget()
		p := w.start()
		ended := make(chan error, 1)
		p.life.Spawn(func() { ended <- p.resolver.resolve(p.life.Context(), writer.holder) })
		synctest.Wait()
		require.Empty(t, w.tried(), "nothing is taken while nobody knows what the primary has")
		thaw()
		require.NoError(t, <-ended)
		var order []int
		for _, wr := range w.tried() {
			order = append(order, wr.member)
		}
		require.Equal(t, []int{0, 1}, order)
		require.Empty(t, w.locks())
	})
}
