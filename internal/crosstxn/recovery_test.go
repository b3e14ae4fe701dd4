package crosstxn

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/record"
)

// enough is longer than a resolver leaves anybody alone in these tests.
const enough = 5 * time.Second

func TestADecisionIsRolledForward(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		_, err := w.start().locked(w.plan("new"), 0, 1).decideNow(t)
		require.NoError(t, err)
		require.Equal(t, []string{"new", ""}, []string{w.value(0), w.value(1)}, "the primary's part lands with the decision")
		require.Len(t, w.decisions(), 1)

		p := w.start()
		p.resolve()
		time.Sleep(enough)
		synctest.Wait()
		require.Equal(t, []string{"new", "new"}, []string{w.value(0), w.value(1)})
		require.Empty(t, w.decisions(), "a decision that is done is removed")
		require.Empty(t, w.locks())
		require.EqualValues(t, 1, p.rolled.Load())
		require.Zero(t, p.aborted.Load())
		require.Zero(t, w.stamps.count("taken"))
	})
}

func TestUndecidedLocksAreTakenFromThePrimaryFirst(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		writer := w.start().locked(w.plan("never"), 0, 1)
		w.forget()
		p := w.start()
		p.resolve()
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.locks())
		var order []int
		for _, req := range w.tried() {
			order = append(order, req.member)
		}
		require.Equal(t, []int{0, 1}, order)
		require.EqualValues(t, 2, p.aborted.Load(), "one for each member")
		require.Zero(t, p.rolled.Load())

		_, err := writer.decideNow(t)
		require.ErrorIs(t, err, errAgain, "it cannot be decided any more")
		require.Equal(t, 2*feed.MinPatience, writer.patience, "and asks for more the next time")
		require.Equal(t, []string{"", ""}, []string{w.value(0), w.value(1)})
		require.Zero(t, w.stamps.count("taken"))
	})
}

// A writer that died between two locks of others left nothing on the primary: it was taken, or given back, before.
func TestWithoutLocksOnThePrimaryTheOthersAreTaken(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.start().locked(w.plan("never"), 1)
		w.forget()
		p := w.start()
		p.resolve()
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.locks())
		require.Len(t, w.tried(), 1)
		require.Equal(t, 1, w.tried()[0].member)
		require.EqualValues(t, 1, p.aborted.Load())
	})
}

// The writer may be alive, and decide between the look for a decision and the taking of its locks.
func TestADecisionThatComesBetweenIsFound(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		writer := w.start().locked(w.plan("new"), 0, 1)
		p := w.start()
		var once sync.Once
		w.setFault(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			once.Do(func() {
				w.setFault(nil)
				_, err := writer.decideNow(t)
				require.NoError(t, err)
			})
			return do()
		})
		require.NoError(t, p.resolver.resolve(t.Context(), writer.holder))
		require.Equal(t, []string{"new", "new"}, []string{w.value(0), w.value(1)})
		require.Empty(t, w.locks())
		require.Empty(t, w.decisions())
		require.Zero(t, p.aborted.Load())
		require.EqualValues(t, 1, p.rolled.Load())
		require.Equal(t, 1, w.stamps.count("surrendered"), "the stamp of the locks that were not taken")
	})
}

func TestOwnTransactionsAreLeftAlone(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		x := p.locked(w.plan("slow"), 0, 1)
		p.resolve()
		time.Sleep(time.Minute)
		require.Len(t, w.locks(), 2)
		p.open.Delete(x.holder.ID) // it could not give them back
		done := time.Now()
		w.forget()
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.locks())
		require.GreaterOrEqual(t, w.tried()[0].at.Sub(done), feed.MinPatience-lockTick, "its time begins when nobody is at work on it")
	})
}

// A member that is away is told of once, however often it is asked, and however many writers it concerns.
func TestAnOutageOfTheResolverIsLoggedOnce(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.start().locked(w.plan("never"), 0, 1)
		w.forget()
		core, logs := observer.New(zap.InfoLevel)
		p := w.start()
		p.cfg.Logger = zap.New(core)
		w.servers[0].SetDown(true)
		p.resolve()
		time.Sleep(time.Minute)
		require.Len(t, logs.FilterMessageSnippet("could not finish").All(), 1)
		w.servers[0].SetDown(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, w.locks())
		require.Len(t, logs.FilterMessageSnippet("finished again").All(), 1)
	})
}

func TestResolversWaitForPatienceAndGrace(t *testing.T) {
	for name, tc := range map[string]struct{ patience, grace, want time.Duration }{
		"patience": {patience: time.Second, grace: 20 * time.Millisecond, want: time.Second},
		"grace":    {patience: feed.MinPatience, grace: 3 * time.Second, want: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, w *world) {
				x := w.start().newCrossing(w.plan("never"))
				x.patience = tc.patience
				x.begin()
				begin := time.Now()
				require.NoError(t, x.lockShare(t.Context(), w.feed, 0))
				w.forget()
				w.start(tc.grace).resolve()
				time.Sleep(enough)
				synctest.Wait()
				require.Len(t, w.tried(), 1)
				took := w.tried()[0].at.Sub(begin)
				require.Greater(t, took, tc.want)
				require.LessOrEqual(t, took, tc.want+feed.MinPatience+2*lockTick)
			})
		})
	}
}

// Several processes find the same locks, over a network that loses requests and answers: each lock is taken once, each part has its effect once.
func TestSeveralResolversEndItOnce(t *testing.T) {
	for name, decided := range map[string]bool{"undecided": false, "decided": true} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, w *world) {
				writer := w.start().locked(w.plan("new"), 0, 1)
				if decided {
					_, err := writer.decideNow(t)
					require.NoError(t, err)
				}
				w.setFault(etcdfake.Faults{MaxDelay: 50 * time.Millisecond, LoseRequest: 0.2, LoseReply: 0.2}.Interceptor())
				for range 3 {
					w.start().resolve()
				}
				time.Sleep(10 * enough)
				synctest.Wait()
				require.Empty(t, w.locks())
				require.Empty(t, w.decisions())
				for i, s := range w.servers {
					resp, err := s.Client(nil).Range(t.Context(), &pb.RangeRequest{Key: w.keyOn(i)})
					require.NoError(t, err)
					if !decided {
						require.Empty(t, resp.Kvs)
						continue
					}
					require.Len(t, resp.Kvs, 1)
					require.EqualValues(t, 1, resp.Kvs[0].Version)
				}
				require.Zero(t, w.stamps.count("taken"), "every stamp is accounted for")
			})
		})
	}
}

func TestFinishDecided(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		d, err := w.start().locked(w.plan("new"), 0, 1).decideNow(t)
		require.NoError(t, err)
		p := w.start()
		require.NoError(t, p.FinishDecided(t.Context(), w.feed, d.Stamp-1))
		require.Empty(t, w.value(1), "it is above: the streams show all of its parts")
		require.Len(t, w.decisions(), 1)
		require.NoError(t, p.FinishDecided(t.Context(), w.feed, d.Stamp))
		require.Equal(t, "new", w.value(1))
		require.Empty(t, w.decisions())
		require.Empty(t, w.locks())
	})
}

// Locks of a transaction whose primary is not there are nobody's fault that could be mended here.
func TestALockThatNamesNoMemberIsRefused(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		err := w.start().resolver.resolve(t.Context(), record.Holder{Primary: 1})
		require.ErrorContains(t, err, "no member has the number 1, the members have [7 3]")
	})
}
