package member

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const timeout = 10 * time.Second

// open returns a member of a process that lives as long as the test, with adjustments.
func open(t *testing.T, kv pb.KVClient, adjust ...func(*Config)) *Member {
	cfg := Config{
		Name: "a", KV: kv, Life: lifetime.New(t.Context()), Timeout: timeout, MaxTxnOps: 128, Logger: zap.NewNop(),
		Stopped: func() error { return nil }, Reached: func(int, int64) {}, Seen: func(int, string, error) {},
	}
	for _, a := range adjust {
		a(&cfg)
	}
	return New(cfg)
}

// created is a server with the records of a member in epoch 3: fence 10, clock 12, nothing compacted.
func created(t *testing.T) *etcdfake.Server {
	s := etcdfake.New(1)
	for key, value := range map[string][]byte{
		record.KeyFence: record.Pair(3, 10), record.KeyClock: record.ClockRecord{Epoch: 3, Highest: 12}.Value(), record.KeyCompacted: record.Number(0), record.KeyLock: {},
	} {
		put(t, s, key, value)
	}
	return s
}

func put(t *testing.T, s *etcdfake.Server, key string, value []byte) {
	t.Helper()
	_, err := s.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: value})
	require.NoError(t, err)
}

// observed returns a logger and what is logged to it.
func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(core), logs
}

// funcs is a KV service of functions.
type funcs struct {
	pb.KVClient
	get func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	txn func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
}

func (f funcs) Range(ctx context.Context, req *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return f.get(ctx, req)
}

func (f funcs) Txn(ctx context.Context, req *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return f.txn(ctx, req)
}

var errDown = status.Error(codes.Unavailable, "down")

func header(stamp int64) record.Header { return record.Header{Stamp: stamp, Create: stamp} }

func timeAfter(d time.Duration) <-chan time.Time { return time.NewTimer(d).C }
