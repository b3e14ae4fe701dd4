package crosstxn

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// decision is a request that leaves a decision, which says nothing.
func decision(id record.TxnID) *pb.TxnRequest {
	put := &pb.PutRequest{Key: record.TxnKey(id), Value: record.Number(1)}
	return &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(put), translate.Note()}}
}

// part is one that leaves a name behind, on a member by its index.
func part(t *testing.T, member int, name byte) record.DecidedPart {
	txn, err := proto.Marshal(decision(record.TxnID{name}))
	require.NoError(t, err)
	return record.DecidedPart{Member: numbers[member], Txn: txn}
}

func nameOf(req *pb.TxnRequest) byte {
	return req.Success[0].GetRequestPut().Key[len(record.TxnKey(record.TxnID{}))-16]
}

func TestPartsAreAppliedInTheirOrderUntilTheyAreTaken(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		w.setFault(etcdfake.Faults{MaxDelay: 100 * time.Millisecond, LoseRequest: 0.4, LoseReply: 0.4}.Interceptor())
		over := map[int]bool{}
		var mu sync.Mutex
		require.NoError(t, p.applyAll(t.Context(), []record.DecidedPart{part(t, 1, 'a'), part(t, 0, 'b'), part(t, 1, 'c'), part(t, 1, 'd')}, func(member int) {
			mu.Lock()
			defer mu.Unlock()
			over[member] = true
		}))
		require.Len(t, w.decisions(), 4)
		require.Equal(t, map[int]bool{0: true, 1: true}, over)
		var order []byte
		for _, wr := range w.tried() {
			if wr.member == 1 {
				order = append(order, nameOf(wr.req))
			}
		}
		require.Equal(t, "acd", string(slices.Compact(order)), "nothing is sent before what comes before it is taken")
	})
}

// Who waits for latches of a member that takes its parts is not held up by one that does not.
func TestEachMemberIsToldToBeOverByItself(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		w.servers[1].SetDown(true)
		var told []int
		var mu sync.Mutex
		ctx, cancel := context.WithCancel(t.Context())
		applied := make(chan error, 1)
		p.life.Spawn(func() {
			applied <- p.applyAll(ctx, []record.DecidedPart{part(t, 0, 'a'), part(t, 0, 'b'), part(t, 1, 'c')}, func(member int) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, member)
			})
		})
		synctest.Wait()
		mu.Lock()
		require.ElementsMatch(t, []int{0, 1}, told, "when it is done, or does not answer")
		mu.Unlock()
		require.Len(t, w.decisions(), 2)
		cancel()
		require.Error(t, <-applied)
		require.Error(t, p.cfg.Members[1].AwaitBack(ctx, time.Second), "those that come next wait for it before they lock anything")
	})
}

func TestDecisionsAreRemovedManyAtATimeAfterTheirRest(t *testing.T) {
	const each = 100
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		for n := range each {
			for i := range w.servers {
				id := record.TxnID{byte(i), byte(n)}
				_, err := w.servers[i].Client(nil).Txn(t.Context(), decision(id))
				require.NoError(t, err)
				p.cleaner.add(i, id)
			}
		}
		failed := map[*pb.TxnRequest]bool{}
		w.setFault(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if r := req.(*pb.TxnRequest); !failed[r] { // each request once
				failed[r] = true
				return nil, etcdfake.ErrLost
			}
			return do()
		})
		time.Sleep(sweepEvery - 1)
		synctest.Wait()
		require.Len(t, w.decisions(), 2*each)
		require.Empty(t, w.tried())
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.decisions(), "nothing is lost when requests fail")
		width := translate.Width(128)
		require.Len(t, failed, 2*((each+width-1)/width))
	})
}

// What is added while a sweep is under way is not forgotten.
func TestTheNextSweepTakesWhatCameDuringTheLast(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		add := func(n byte) {
			_, err := w.servers[0].Client(nil).Txn(t.Context(), decision(record.TxnID{n}))
			require.NoError(t, err)
			p.cleaner.add(0, record.TxnID{n})
		}
		w.setFault(etcdfake.Faults{MaxDelay: time.Second}.Interceptor())
		for n := range byte(50) {
			add(n)
			time.Sleep(30 * time.Millisecond)
		}
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.decisions())
		require.Less(t, len(w.tried()), 50)
	})
}

// A process that is closed does not wait for the rest, and asks once.
func TestTheCleanerEndsWithTheProcess(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		p.cleaner.add(0, record.TxnID{1})
		w.servers[0].SetDown(true)
		begin := time.Now()
		p.life.End(lifetime.ErrClosed)
		p.life.Wait()
		require.Zero(t, time.Since(begin))
		require.Len(t, w.tried(), 1)
		p.cleaner.add(0, record.TxnID{2}) // starts nothing
	})
}

func TestLocksAreGivenBackAsTheyWereFound(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		resp, err := w.start().Run(t.Context(), w.plan("old")) // slots have clocks
		require.NoError(t, err)
		synctest.Wait()
		clocks := func() (all []string) {
			for i, s := range w.servers {
				all = append(all, string(s.Get(string(record.SlotKey(w.ring.Slot(w.keyOn(i)))))))
			}
			return all
		}
		found := clocks()
		require.Equal(t, string(record.Number(resp.Header.Revision)), found[0])

		other, p := w.start(), w.start()
		first := other.locked(w.plan("first"), 1)
		x := p.newCrossing(w.plan("second"))
		x.begin()
		ended := make(chan error, 1)
		p.life.Spawn(func() { ended <- x.lock(t.Context(), w.feed) })
		synctest.Wait()
		require.EqualValues(t, 1, p.waits.Load())
		require.Equal(t, []int{1}, w.locks(), "who waits holds nothing")
		require.Equal(t, found[0], clocks()[0])
		first.abandon()
		require.ErrorIs(t, <-ended, errAgain)
		require.Equal(t, found, clocks())
		require.Zero(t, w.feed.Log.Locked())
	})
}

// What cannot be given back is left to the resolvers, and nobody waits for it.
func TestGivingBackDoesNotInsist(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		p := w.start()
		x := p.locked(w.plan("never"), 0, 1)
		w.servers[1].SetDown(true)
		begin := time.Now()
		x.abandon()
		require.Zero(t, time.Since(begin))
		require.Equal(t, []int{1}, w.locks())
		require.False(t, p.atWork(x.holder.ID))
		w.servers[1].SetDown(false)
		p.resolve()
		time.Sleep(enough)
		synctest.Wait()
		require.Empty(t, w.locks())
	})
}

// Writers of the same keys, in two processes, one of which dies: the others finish, one after the other.
func TestRun(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.start().locked(w.plan("dead"), 0, 1)
		processes := []*process{w.start(), w.start()}
		var g sync.WaitGroup
		var mu sync.Mutex
		stamps := map[int64]string{}
		for _, p := range processes {
			p.resolve()
			for _, value := range []string{"x", "y", "z"} {
				g.Go(func() {
					resp, err := p.Run(t.Context(), w.plan(value))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					stamps[resp.Header.Revision] = value
				})
			}
		}
		g.Wait()
		time.Sleep(enough)
		synctest.Wait()
		require.Len(t, stamps, 6)
		last := int64(0)
		for s := range stamps {
			last = max(last, s)
		}
		require.Equal(t, []string{stamps[last], stamps[last]}, []string{w.value(0), w.value(1)})
		require.Empty(t, w.locks())
		require.Empty(t, w.decisions())
		require.EqualValues(t, 6, processes[0].decided.Load()+processes[1].decided.Load())
		require.Zero(t, w.stamps.count("taken"))
	})
}

func TestPatienceIsBounded(t *testing.T) {
	x := &crossing{patience: feed.MinPatience}
	for range 20 {
		x.lost()
	}
	require.Equal(t, feed.MaxPatience, x.patience)
}
