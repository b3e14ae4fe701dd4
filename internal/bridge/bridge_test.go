package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits that must succeed.
const patience = time.Minute

// fakeKV answers what its fields say.
type fakeKV struct {
	pb.UnimplementedKVServer
	rng    func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	stream func(*pb.RangeRequest, pb.KV_RangeStreamServer) error
}

func (f *fakeKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return f.rng(ctx, r)
}

func (f *fakeKV) RangeStream(r *pb.RangeRequest, s pb.KV_RangeStreamServer) error {
	return f.stream(r, s)
}

func (f *fakeKV) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: int64(len(r.Value))}}, nil
}

// clients runs f without a client and with a real one, whose connection is never used.
func clients(t *testing.T, f func(t *testing.T, c *clientv3.Client)) {
	t.Run("nil", func(t *testing.T) { f(t, nil) })
	t.Run("lazy", func(t *testing.T) {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		f(t, c)
	})
}

func TestKV(t *testing.T) {
	clients(t, func(t *testing.T, c *clientv3.Client) {
		kv := clientv3.NewKVFromKVClient(KVClient(&fakeKV{rng: func(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
			if r.Revision > 0 {
				return nil, rpctypes.ErrGRPCCompacted
			}
			return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: r.Key}}}, nil
		}}), c)
		got, err := kv.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "k", string(got.Kvs[0].Key))
		_, err = kv.Get(t.Context(), "k", clientv3.WithRev(1))
		require.Equal(t, rpctypes.ErrCompacted, err, "by identity, as over a connection")
		put, err := kv.Put(t.Context(), "k", "four")
		require.NoError(t, err)
		require.EqualValues(t, 4, put.Header.Revision)
		_, err = kv.Delete(t.Context(), "k")
		require.Equal(t, codes.Unimplemented, status.Code(err))
	})
}

func TestUnaryErrors(t *testing.T) {
	own := errors.New("metaetcd: own")
	for name, tc := range map[string]struct {
		err  error
		code codes.Code
		desc string
		is   error
	}{
		"status":         {rpctypes.ErrGRPCFutureRev, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision", rpctypes.ErrGRPCFutureRev},
		"wrapped status": {fmt.Errorf("x: %w", rpctypes.ErrGRPCNoSpace), codes.ResourceExhausted, "x: " + rpctypes.ErrGRPCNoSpace.Error(), rpctypes.ErrGRPCNoSpace},
		"own":            {fmt.Errorf("y: %w", own), codes.Unknown, "y: metaetcd: own", own},
		"canceled":       {context.Canceled, codes.Canceled, "context canceled", nil},
		"deadline":       {context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded", nil},
		"eof":            {io.EOF, codes.Unknown, "EOF", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := KVClient(&fakeKV{rng: func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) { return nil, tc.err }})
			_, err := c.Range(t.Context(), &pb.RangeRequest{})
			st, ok := status.FromError(err)
			require.True(t, ok)
			require.Equal(t, tc.code, st.Code())
			require.Equal(t, tc.desc, st.Message())
			require.Equal(t, st.Err().Error(), err.Error())
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			} else {
				require.NotErrorIs(t, err, tc.err)
			}
		})
	}
}

func TestUnaryDeadContextNeverReachesTheServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := KVClient(&fakeKV{}).Range(ctx, &pb.RangeRequest{})
	require.Equal(t, codes.Canceled, status.Code(err))
	_, err = KVClient(&fakeKV{}).RangeStream(ctx, &pb.RangeRequest{})
	require.Equal(t, codes.Canceled, status.Code(err))
}

func TestMetadata(t *testing.T) {
	serve := func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
		in, ok := metadata.FromIncomingContext(ctx)
		if !ok || in.Get("asked")[0] != "yes" || in.Get("outer") != nil {
			return nil, fmt.Errorf("incoming metadata: %v", in)
		}
		if out, _ := metadata.FromOutgoingContext(ctx); len(out) > 0 {
			return nil, fmt.Errorf("outgoing metadata leaked: %v", out)
		}
		if m, ok := grpc.Method(ctx); !ok || m != pb.KV_Range_FullMethodName {
			return nil, fmt.Errorf("method: %q", m)
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs("h", "1")); err != nil {
			return nil, err
		}
		if err := grpc.SendHeader(ctx, metadata.Pairs("h", "2")); err != nil {
			return nil, err
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs("h", "3")); status.Code(err) != codes.Internal {
			return nil, fmt.Errorf("a header after the header: %w", err)
		}
		return &pb.RangeResponse{}, grpc.SetTrailer(ctx, metadata.Pairs("t", "4"))
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("outer", "call"))
	ctx = metadata.AppendToOutgoingContext(ctx, "asked", "yes")
	var header, trailer metadata.MD
	_, err := KVClient(&fakeKV{rng: serve}).Range(ctx, &pb.RangeRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2"}, header.Get("h"))
	require.Equal(t, []string{"4"}, trailer.Get("t"))
}

func TestIncomingMetadataOfTheCallerStayOut(t *testing.T) {
	var in metadata.MD
	c := KVClient(&fakeKV{rng: func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
		in, _ = metadata.FromIncomingContext(ctx)
		return &pb.RangeResponse{}, nil
	}})
	_, err := c.Range(metadata.NewIncomingContext(t.Context(), metadata.Pairs("outer", "call")), &pb.RangeRequest{})
	require.NoError(t, err)
	require.Empty(t, in)
}

// TestGetStream shows what kube-apiserver relies on: the chunks in order, and an error in the middle as the last value.
func TestGetStream(t *testing.T) {
	clients(t, func(t *testing.T, c *clientv3.Client) {
		for _, fail := range []error{nil, rpctypes.ErrGRPCCompacted, io.EOF} {
			kv := clientv3.NewKVFromKVClient(KVClient(&fakeKV{stream: func(_ *pb.RangeRequest, s pb.KV_RangeStreamServer) error {
				for i := range 3 * responseBuffer {
					if err := s.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Count: int64(i)}}); err != nil {
						return err
					}
				}
				return fail
			}}), c)
			ch, err := kv.GetStream(t.Context(), "k")
			require.NoError(t, err)
			var chunks int64
			var last error
			for r := range ch {
				if last = r.Err(); last == nil {
					require.Equal(t, chunks, r.Count)
					chunks++
				}
			}
			require.EqualValues(t, 3*responseBuffer, chunks)
			switch {
			case fail == nil:
				require.NoError(t, last)
			case errors.Is(fail, io.EOF):
				require.Equal(t, codes.Unknown, status.Code(last), "a handler's io.EOF is no clean end")
			default:
				require.Equal(t, rpctypes.ErrCompacted, last)
			}
		}
	})
}

func TestGetStreamAbandoned(t *testing.T) {
	ended := make(chan error, 1)
	kv := clientv3.NewKVFromKVClient(KVClient(&fakeKV{stream: func(_ *pb.RangeRequest, s pb.KV_RangeStreamServer) (err error) {
		defer func() { ended <- err }()
		for {
			if err := s.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{}}); err != nil {
				return err
			}
		}
	}}), nil)
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := kv.GetStream(ctx, "k")
	require.NoError(t, err)
	<-ch
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-ended))
	var last error
	for r := range ch {
		last = r.Err()
	}
	require.ErrorIs(t, last, context.Canceled)
}
