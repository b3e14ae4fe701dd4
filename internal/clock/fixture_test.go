package clock_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clusterID     = 0xc1
	coordinatorID = 0xc0
)

// world is a coordinator and initialised members.
type world struct {
	t           testing.TB
	coordinator *etcdfake.Server
	members     []*etcdfake.Server
}

func newWorld(t testing.TB, members int) *world {
	w := &world{t: t, coordinator: etcdfake.New(coordinatorID)}
	for i := range members {
		m := etcdfake.New(uint64(i + 1))
		kv := m.Client(nil)
		for key, value := range map[string][]byte{record.KeyFence: record.Pair(0, 0), record.KeyClock: record.ClockRecord{Highest: 1}.Value()} {
			_, err := kv.Put(context.Background(), &pb.PutRequest{Key: []byte(key), Value: value})
			require.NoError(t, err)
		}
		w.members = append(w.members, m)
	}
	return w
}

// config returns the configuration of one process. Its requests go through via, which may be nil. No add is sent again because this
// machine is slow.
func (w *world) config(via etcdfake.Interceptor) clock.Config {
	cfg := clock.Config{
		Coordinator: w.coordinator.Client(via), ClusterID: clusterID, CoordinatorID: coordinatorID, Alone: true,
	}
	for i, m := range w.members {
		cfg.Members = append(cfg.Members, clock.Member{Name: fmt.Sprint("m", i), KV: m.Client(via)})
	}
	return cfg
}

// open starts a process. It is closed with the test.
func (w *world) open(via etcdfake.Interceptor) *clock.Clock {
	return w.openConfig(w.config(via))
}

func (w *world) openConfig(cfg clock.Config) *clock.Clock {
	c := clock.New(cfg)
	w.t.Cleanup(c.Close)
	require.NoError(w.t, c.Open(within(w.t)))
	return c
}

// within bounds what should not take long, in the time of synctest mostly: where requests are lost, an opening may begin many times.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// land does what a write does on a member: guarded by epoch and fence, it raises the clock record. It reports whether
// the stamp landed.
func (w *world) land(member int, epoch, stamp int64) bool {
	return land(w.t, w.members[member].Client(nil), epoch, stamp)
}

func land(t testing.TB, kv pb.KVClient, epoch, stamp int64) bool {
	for {
		resp, err := kv.Txn(context.Background(), &pb.TxnRequest{Success: []*pb.RequestOp{get(record.KeyFence), get(record.KeyClock)}})
		require.NoError(t, err)
		fence := resp.Responses[0].GetResponseRange().Kvs[0].Value
		highest := resp.Responses[1].GetResponseRange().Kvs[0].Value
		e, f, err := record.ParsePair(fence)
		require.NoError(t, err)
		clock, err := record.ParseClock(highest)
		require.NoError(t, err)
		if e != epoch || f >= stamp {
			return false
		}
		put, err := kv.Txn(context.Background(), &pb.TxnRequest{
			Compare: []*pb.Compare{is(record.KeyFence, fence), is(record.KeyClock, highest)},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
				Key: []byte(record.KeyClock), Value: record.ClockRecord{Epoch: epoch, Highest: max(clock.Highest, stamp)}.Value(),
			}}}},
		})
		require.NoError(t, err)
		if put.Succeeded {
			return true
		}
	}
}

func get(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func is(key string, value []byte) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Value{Value: value},
	}
}

// issued collects the stamps that were handed out, and finds those that were handed out twice.
type issued struct {
	mu     sync.Mutex
	epochs map[int64]map[int64]bool // epoch -> stamps
	twice  []string
}

func newIssued() *issued { return &issued{epochs: make(map[int64]map[int64]bool)} }

func (s *issued) add(first, k, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epochs[epoch] == nil {
		s.epochs[epoch] = make(map[int64]bool)
	}
	for stamp := first; stamp < first+k; stamp++ {
		if s.epochs[epoch][stamp] {
			s.twice = append(s.twice, fmt.Sprintf("%d in epoch %d", stamp, epoch))
		}
		s.epochs[epoch][stamp] = true
	}
}
