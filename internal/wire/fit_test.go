package wire_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// What does not fit into the messages that a client takes is read in pieces, and is the same.
func TestAnswersThatDoNotFitComeInPieces(t *testing.T) {
	s := etcdfake.New(1)
	s.KeepHistory()
	const value = 1 << 10
	for i := range 20 {
		_, err := s.Client(nil).Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", i), Value: bytes.Repeat([]byte{byte(i)}, value)})
		require.NoError(t, err)
	}
	small, whole := wire.KV(dialTo(t, s, 4*value)), wire.KV(dialTo(t, s, 1<<20))
	list := func(adjust func(*pb.RangeRequest)) *pb.RangeRequest {
		r := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
		adjust(r)
		return r
	}
	lists := []*pb.RangeRequest{
		list(func(*pb.RangeRequest) {}),
		list(func(r *pb.RangeRequest) { r.Limit = 9 }),
		list(func(r *pb.RangeRequest) { r.Serializable, r.Revision = true, s.Revision()-3 }),
		list(func(r *pb.RangeRequest) { r.MinCreateRevision = 5 }),
	}
	var ranges, points []*pb.RequestOp
	for _, l := range lists {
		want, err := whole.Range(t.Context(), l)
		require.NoError(t, err)
		got, err := small.Range(t.Context(), l)
		require.NoError(t, err)
		require.True(t, proto.Equal(want, got), "%v: %v", l, got)
		ranges = append(ranges, request.Range(l))
	}
	for i := range 20 {
		points = append(points, request.Range(&pb.RangeRequest{Key: fmt.Appendf(nil, "k%02d", i)}))
	}
	for _, ops := range [][]*pb.RequestOp{points, ranges, ranges[:1], slices.Concat(points, ranges)} {
		want, err := whole.Txn(t.Context(), &pb.TxnRequest{Success: ops})
		require.NoError(t, err)
		got, err := small.Txn(t.Context(), &pb.TxnRequest{Success: ops})
		require.NoError(t, err)
		for i, r := range want.Responses { // the headers within say nothing that the one without does not
			r.GetResponseRange().Header, got.Responses[i].GetResponseRange().Header = nil, nil
		}
		require.True(t, proto.Equal(want, got))
	}
	// Compaction comes between the pieces, once. What names no revision is read again.
	var compacted atomic.Bool
	overtaken := wire.KV(dialTo(t, s, 4*value, func(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if r, ok := req.(*pb.RangeRequest); ok && r.KeysOnly && compacted.CompareAndSwap(false, true) {
			defer func() {
				cli := s.Client(nil)
				_, _ = cli.Put(ctx, &pb.PutRequest{Key: []byte("k00"), Value: []byte("new")})
				_, _ = cli.Compact(ctx, &pb.CompactionRequest{Revision: s.Revision()})
			}()
		}
		return do()
	}))
	got, err := overtaken.Range(t.Context(), lists[0])
	require.NoError(t, err)
	require.True(t, compacted.Load())
	require.Equal(t, "new", string(got.Kvs[0].Value))
	// One value alone cannot be cut.
	_, err = wire.KV(dialTo(t, s, value)).Range(t.Context(), lists[0])
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

// dialTo returns a client that takes messages of so many bytes, whatever a call allows.
func dialTo(t *testing.T, s *etcdfake.Server, most int, via ...etcdfake.Interceptor) *clientv3.Client {
	t.Helper()
	var front etcdfake.Interceptor
	if len(via) > 0 {
		front = via[0]
	}
	cli, stop, err := s.Dial(front, grpc.WithChainUnaryInterceptor(func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		return invoke(ctx, method, req, reply, cc, append(opts, grpc.MaxCallRecvMsgSize(most))...)
	}))
	require.NoError(t, err)
	t.Cleanup(stop)
	return cli
}
