package wire_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/wire"
)

func (s *server) Range(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Count: 1}, s.answer(ctx, s.reads.Add(1))
}

var readTxn = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}}}

// One of two servers hangs. Whoever reads is answered by the other, long before the request's own end.
func TestReadsAskAnotherServer(t *testing.T) {
	hung, well := startServer(t), startServer(t)
	hung.answer = func(ctx context.Context, _ int32) error {
		<-ctx.Done()
		return ctx.Err()
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{hung.addr, well.addr}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	require.NoError(t, err)
	defer cli.Close()
	kv := wire.KV(cli)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	for n := int32(0); n < 10 || hung.reads.Load() == 0; n++ {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		require.NoError(t, err)
		_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		require.NoError(t, err)
		_, err = kv.Txn(ctx, readTxn)
		require.NoError(t, err)
	}
	require.Less(t, time.Since(start), time.Minute)

	// What is late for good ends with its caller, as gRPC has it.
	well.answer = hung.answer
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = kv.Range(short, &pb.RangeRequest{Key: []byte("k")})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}
