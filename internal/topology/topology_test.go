package topology_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/validate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const coordinatorID = 0xc0

// world is a coordinator and the etcds named a, b, c, …
type world struct {
	coordinator *etcdfake.Server
	etcds       map[string]*etcdfake.Server
}

func newWorld(names ...string) *world {
	w := &world{coordinator: etcdfake.New(coordinatorID), etcds: map[string]*etcdfake.Server{}}
	for _, name := range names {
		w.etcds[name] = etcdfake.New(uint64(name[0]))
	}
	return w
}

// members configures the etcds under their own names, in the given order.
func (w *world) members(via etcdfake.Interceptor, names ...string) []topology.Member {
	var ms []topology.Member
	for _, name := range names {
		ms = append(ms, topology.Member{Name: name, KV: w.etcds[name].Client(via)})
	}
	return ms
}

func (w *world) open(ctx context.Context, ms []topology.Member, spec topology.Spec) (topology.Info, error) {
	return topology.Open(ctx, w.coordinator.Client(nil), ms, spec)
}

// startClock does what follows the creation of a topology.
func (w *world) startClock(t testing.TB, info topology.Info, ms []topology.Member) {
	cfg := clock.Config{Coordinator: w.coordinator.Client(nil), ClusterID: info.ClusterID, CoordinatorID: info.CoordinatorID}
	for _, m := range ms {
		cfg.Members = append(cfg.Members, clock.Member{Name: m.Name, KV: m.KV})
	}
	c := clock.New(cfg)
	defer c.Close()
	require.NoError(t, c.Open(context.Background()))
}

// revisions tells writes: no etcd writes without moving its revision.
func (w *world) revisions() []int64 {
	revs := []int64{w.coordinator.Revision()}
	for _, name := range w.names() {
		revs = append(revs, w.etcds[name].Revision())
	}
	return revs
}

func (w *world) names() (names []string) {
	for name := range w.etcds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// numbered are the members of a new meta cluster with these names, in order.
func numbered(names []string) (ms []record.TopologyMember) {
	for i, name := range names {
		ms = append(ms, record.TopologyMember{Number: i + 1, Name: name})
	}
	return ms
}

// checkRecords demands that all members have all records.
func (w *world) checkRecords(t require.TestingT, info topology.Info) {
	r, err := ring.New(info.Names, info.Slots, info.Policy)
	require.NoError(t, err)
	for i, name := range info.Names {
		e := w.etcds[name]
		topo, err := record.ParseTopology(e.Get(record.KeyTopology))
		require.NoError(t, err)
		require.Equal(t, record.TopologyRecord{
			Format: record.TopologyFormat, ClusterID: info.ClusterID, Member: name, Members: numbered(info.Names), Compacted: 1, Slots: info.Slots,
			Segments: info.Policy.Segments, Separator: info.Policy.Separator, CoordinatorID: coordinatorID,
		}, topo)
		want := []string{record.KeyTopology, record.KeyFence, record.KeyLock, record.KeyClock, record.KeyCompacted}
		for _, slot := range r.SlotsOf(i) {
			want = append(want, string(record.SlotKey(slot)))
			require.Equal(t, record.Number(0), e.Get(string(record.SlotKey(slot))))
		}
		slices.Sort(want)
		require.Equal(t, want, e.Keys())
		require.Equal(t, record.Pair(0, 0), e.Get(record.KeyFence))
		require.Equal(t, record.ClockRecord{Highest: 1}.Value(), e.Get(record.KeyClock))
		require.Equal(t, record.Number(0), e.Get(record.KeyCompacted))
		require.Empty(t, e.Get(record.KeyLock))
	}
}

func TestCreateThenOpen(t *testing.T) {
	for _, spec := range []topology.Spec{
		{}, {Slots: 1}, {Slots: 300}, {Slots: 300, Policy: ring.Policy{Segments: 2}}, {Policy: ring.Policy{Segments: 1, Separator: '.'}},
	} {
		w := newWorld("a", "b", "c")
		created, err := w.open(t.Context(), w.members(nil, "c", "a", "b"), spec)
		require.NoError(t, err)
		require.True(t, created.Fresh)
		require.NotZero(t, created.ClusterID)
		require.EqualValues(t, coordinatorID, created.CoordinatorID)
		require.Equal(t, []string{"a", "b", "c"}, created.Names)
		w.checkRecords(t, created)

		for range 2 { // before and after the first epoch
			before := w.revisions()
			opened, err := w.open(t.Context(), w.members(nil, "b", "c", "a"), spec)
			require.NoError(t, err)
			require.False(t, opened.Fresh)
			opened.Fresh = true
			require.Equal(t, created, opened)
			require.Equal(t, before, w.revisions(), "something was written")
			w.startClock(t, created, w.members(nil, "a", "b", "c"))
		}
		w.coordinator.Wipe()
		_, err = w.open(t.Context(), w.members(nil, "a", "b", "c"), spec)
		require.NoError(t, err, "a coordinator that lost its data is no wrong one")
	}
}

// Members that take few operations in a transaction are created by more of them.
func TestCreationFitsTheBudget(t *testing.T) {
	const ops = 20
	w := newWorld("a", "b")
	via := func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if txn, ok := req.(*pb.TxnRequest); ok {
			if err := validate.Txn(txn, ops); err != nil {
				require.ErrorIs(t, err, validate.ErrReservedKey) // which is checked last
			}
		}
		return do()
	}
	info, err := w.open(t.Context(), w.members(via, "a", "b"), topology.Spec{Slots: 300, MaxTxnOps: ops})
	require.NoError(t, err)
	w.checkRecords(t, info)
}

// Numbers are what was recorded, and so is the member that keeps the compacted revision, whatever the order of names.
func TestNumbersAreThoseOfTheRecords(t *testing.T) {
	w := newWorld("a", "b", "c")
	info, err := w.open(t.Context(), w.members(nil, "a", "b", "c"), topology.Spec{Slots: 64})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, info.Numbers)
	require.Zero(t, info.Compacted)
	for _, e := range w.etcds {
		topo, err := record.ParseTopology(e.Get(record.KeyTopology))
		require.NoError(t, err)
		topo.Members = []record.TopologyMember{{Number: 2, Name: "c"}, {Number: 9, Name: "a"}, {Number: 5, Name: "b"}}
		topo.Compacted = 5
		put(t, e, record.KeyTopology, topo.Encode())
	}
	info, err = w.open(t.Context(), w.members(nil, "c", "a", "b"), topology.Spec{Slots: 64})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, info.Names)
	require.Equal(t, []int{9, 5, 2}, info.Numbers)
	require.Equal(t, 1, info.Compacted)
}

func TestDefaultSlots(t *testing.T) {
	w := newWorld("a")
	info, err := w.open(t.Context(), w.members(nil, "a"), topology.Spec{})
	require.NoError(t, err)
	require.Equal(t, 4096, info.Slots)
	_, err = w.open(t.Context(), w.members(nil, "a"), topology.Spec{Slots: 4096})
	require.NoError(t, err)
}

// Creation is cut off after each of its writes in turn, with and without the write that was cut off, and done again.
func TestInterruptedCreationsComplete(t *testing.T) {
	for _, lost := range []bool{true, false} {
		for n := 0; ; n++ {
			w := newWorld("a", "b", "c")
			ctx, crash := context.WithCancel(t.Context())
			var writes int
			via := func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				if !etcdfake.Writes(req) {
					return do()
				}
				if writes++; writes <= n {
					return do()
				}
				crash()
				if !lost && writes == n+1 {
					_, _ = do()
				}
				return nil, etcdfake.ErrLost
			}
			spec := topology.Spec{Slots: 500}
			_, err := topology.Open(ctx, w.coordinator.Client(nil), w.members(via, "a", "b", "c"), spec)
			if err == nil {
				require.Greater(t, n, 8)
				crash()
				break
			}
			require.ErrorIs(t, err, context.Canceled)
			info, err := w.open(t.Context(), w.members(nil, "a", "b", "c"), spec)
			require.NoError(t, err)
			w.checkRecords(t, info)
		}
	}
}

func TestLostRequestsAndRepliesAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b")
		bad := etcdfake.Faults{MaxDelay: time.Millisecond, LoseRequest: 0.2, LoseReply: 0.2}.Interceptor()
		spec := topology.Spec{Slots: 300}
		info, err := topology.Open(t.Context(), w.coordinator.Client(bad), w.members(bad, "a", "b"), spec)
		require.NoError(t, err)
		w.checkRecords(t, info)
	})
}

// Several processes create the same meta cluster at once, under all kinds of interleavings, and one of them goes on at
// once to start the clock.
func TestCreatorsAtOnceAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		creators := rapid.IntRange(2, 4).Draw(rt, "creators")
		delays := rapid.SliceOfN(rapid.IntRange(0, 50), 16, 64).Draw(rt, "delays")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld("a", "b", "c")
			var turn int
			token := make(chan struct{}, 1)
			via := func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				token <- struct{}{}
				turn++
				delay := time.Duration(delays[turn%len(delays)]) * time.Millisecond
				<-token
				time.Sleep(delay)
				return do()
			}
			infos := make(chan topology.Info, creators)
			for range creators {
				go func() {
					ms := w.members(via, "a", "b", "c")
					info, err := topology.Open(context.Background(), w.coordinator.Client(via), ms, topology.Spec{Slots: 400})
					if err != nil {
						t.Error(err)
					}
					if err == nil {
						w.startClock(t, info, ms)
					}
					infos <- info
				}()
			}
			first := <-infos
			for range creators - 1 {
				info := <-infos
				if info.ClusterID != first.ClusterID {
					t.Errorf("two meta clusters: %x and %x", info.ClusterID, first.ClusterID)
				}
			}
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// A process sees b before, and a after another process has created the meta cluster and begun to use it. That looks as
// if b had lost its data.
func TestACreationSeenHalfIsNoLoss(t *testing.T) {
	w := newWorld("a", "b")
	seen := make(chan struct{}, 2) // answers of b
	b := w.members(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		resp, err := do()
		select {
		case seen <- struct{}{}:
		default:
		}
		return resp, err
	}, "b")
	var created topology.Info
	between := sync.OnceFunc(func() {
		<-seen // no topology
		<-seen // nor anything else
		ms := w.members(nil, "a", "b")
		var err error
		created, err = w.open(t.Context(), ms, topology.Spec{})
		require.NoError(t, err)
		w.startClock(t, created, ms)
	})
	a := w.members(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		between()
		return do()
	}, "a")
	info, err := w.open(t.Context(), append(a, b...), topology.Spec{})
	require.NoError(t, err)
	require.Equal(t, created.ClusterID, info.ClusterID)
	require.False(t, info.Fresh)
}

func TestUnreachableMembersAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b")
		w.etcds["b"].SetDown(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.open(ctx, w.members(nil, "a", "b"), topology.Spec{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "member b: ")
		require.Equal(t, []int64{1, 1, 1}, w.revisions(), "something was written")
		go func() {
			time.Sleep(time.Minute)
			w.etcds["b"].SetDown(false)
		}()
		_, err = w.open(t.Context(), w.members(nil, "a", "b"), topology.Spec{})
		require.NoError(t, err)
	})
}

func TestRefusedRequestsAreNotRepeated(t *testing.T) {
	w := newWorld("a")
	denied := status.Error(codes.PermissionDenied, "etcdserver: permission denied")
	ms := w.members(func(context.Context, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
		return nil, denied
	}, "a")
	_, err := w.open(t.Context(), ms, topology.Spec{})
	require.ErrorIs(t, err, denied)
}

func put(t *testing.T, e *etcdfake.Server, key string, value []byte) {
	_, err := e.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: value})
	require.NoError(t, err)
}
