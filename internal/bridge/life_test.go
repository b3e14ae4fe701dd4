package bridge

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// bounded is a client whose life ends with a connection, or with a context.
func bounded(t *testing.T, s pb.KVServer, ofConn bool) (kv pb.KVClient, end func()) {
	if !ofConn {
		ctx, cancel := context.WithCancel(t.Context())
		return LifeOfContext(ctx).KVClient(s), cancel
	}
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	life, followed := LifeOf(conn), make(chan struct{})
	go func() {
		defer close(followed)
		life.Follow(t.Context())
	}()
	return life.KVClient(s), func() {
		_ = conn.Close()
		<-followed
	}
}

// TestLife: calls fail when the life has ended, those under way included, each with the error of a closed connection.
func TestLife(t *testing.T) {
	for name, ofConn := range map[string]bool{"connection": true, "context": false} {
		t.Run(name, func(t *testing.T) {
			served := make(chan struct{}, 2)
			kv, end := bounded(t, &fakeKV{
				rng: func(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
					if r.Limit == 0 {
						return &pb.RangeResponse{}, nil
					}
					served <- struct{}{}
					<-ctx.Done()
					return nil, ctx.Err()
				},
				stream: func(_ *pb.RangeRequest, s pb.KV_RangeStreamServer) error {
					served <- struct{}{}
					<-s.Context().Done()
					return s.Context().Err()
				},
			}, ofConn)
			_, err := kv.Range(t.Context(), &pb.RangeRequest{})
			require.NoError(t, err)
			unary := make(chan error)
			go func() {
				_, err := kv.Range(t.Context(), &pb.RangeRequest{Limit: 1})
				unary <- err
			}()
			stream, err := kv.RangeStream(t.Context(), &pb.RangeRequest{})
			require.NoError(t, err)
			<-served
			<-served

			mine, leave := context.WithCancel(t.Context())
			leave()
			_, err = kv.Range(mine, &pb.RangeRequest{})
			require.Equal(t, codes.Canceled, status.Code(err))
			require.NotErrorIs(t, err, errClosing, "the caller's own context has ended")

			end()
			require.Equal(t, errClosing, <-unary)
			_, err = stream.Recv()
			require.Equal(t, errClosing, err)
			_, err = kv.Range(t.Context(), &pb.RangeRequest{})
			require.Equal(t, errClosing, err)
			_, err = kv.RangeStream(t.Context(), &pb.RangeRequest{})
			require.Equal(t, errClosing, err)
		})
	}
}

// TestLifeIsNoticed: nobody has to follow a connection for the next call to fail; what is not followed is not waited for.
func TestLifeIsNoticed(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	life := LifeOf(conn)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	life.Follow(ctx)
	_, err = life.KVClient(&fakeKV{}).Put(t.Context(), &pb.PutRequest{})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = life.KVClient(&fakeKV{}).Put(t.Context(), &pb.PutRequest{})
	require.Equal(t, errClosing, err)
	life.Follow(t.Context())
	_, err = LifeOfContext(nil).KVClient(&fakeKV{}).Put(t.Context(), &pb.PutRequest{}) //nolint:staticcheck // a client that was not made by New
	require.NoError(t, err)
}
