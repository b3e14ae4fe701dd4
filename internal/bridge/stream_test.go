package bridge

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type fakeWatch struct {
	pb.UnimplementedWatchServer
	serve func(pb.Watch_WatchServer) error
}

func (f *fakeWatch) Watch(s pb.Watch_WatchServer) error { return f.serve(s) }

// echo answers every creation with Created and one event of the asked key.
func echo(s pb.Watch_WatchServer) error {
	var id int64
	for {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		create := req.GetCreateRequest()
		if create == nil {
			continue
		}
		for _, r := range []*pb.WatchResponse{
			{Header: &pb.ResponseHeader{Revision: 1}, WatchId: id, Created: true},
			{Header: &pb.ResponseHeader{Revision: 2}, WatchId: id, Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: create.Key, ModRevision: 2}}}},
		} {
			if err := s.Send(r); err != nil {
				return err
			}
		}
		id++
	}
}

func TestWatch(t *testing.T) {
	clients(t, func(t *testing.T, c *clientv3.Client) {
		ended := make(chan error, 1)
		w := clientv3.NewWatchFromWatchClient(WatchClient(&fakeWatch{serve: func(s pb.Watch_WatchServer) error {
			err := echo(s)
			ended <- err
			return err
		}}), c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ch := w.Watch(ctx, "k")
		r := <-ch
		require.NoError(t, r.Err())
		require.Equal(t, "k", string(r.Events[0].Kv.Key))
		cancel() // the last watch of a stream takes the stream with it
		require.Equal(t, codes.Canceled, status.Code(<-ended))
		for range ch {
		}
		require.NoError(t, w.Close())
	})
}

func TestWatchStreamErrorReachesTheWatcher(t *testing.T) {
	w := clientv3.NewWatchFromWatchClient(WatchClient(&fakeWatch{serve: func(s pb.Watch_WatchServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{}, Created: true}); err != nil {
			return err
		}
		return rpctypes.ErrGRPCCompacted
	}}), nil)
	defer func() { require.NoError(t, w.Close()) }()
	r := <-w.Watch(t.Context(), "k")
	require.True(t, r.Canceled)
	require.Equal(t, rpctypes.ErrCompacted, r.Err())
}

type fakeLease struct {
	pb.UnimplementedLeaseServer
}

func (fakeLease) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return &pb.LeaseGrantResponse{ID: 7, TTL: r.TTL}, nil
}

func (fakeLease) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: 9}); err != nil {
			return err
		}
	}
}

func TestLease(t *testing.T) {
	clients(t, func(t *testing.T, c *clientv3.Client) {
		l := clientv3.NewLeaseFromLeaseClient(LeaseClient(fakeLease{}), c, patience)
		defer func() { require.NoError(t, l.Close()) }()
		g, err := l.Grant(t.Context(), 5)
		require.NoError(t, err)
		require.EqualValues(t, 7, g.ID)
		one, err := l.KeepAliveOnce(t.Context(), g.ID)
		require.NoError(t, err)
		require.EqualValues(t, 9, one.TTL)
		ctx, cancel := context.WithCancel(t.Context())
		ch, err := l.KeepAlive(ctx, g.ID)
		require.NoError(t, err)
		require.EqualValues(t, 9, (<-ch).TTL)
		cancel()
		_, err = l.Revoke(t.Context(), g.ID)
		require.Equal(t, codes.Unimplemented, status.Code(err))
		_, err = l.TimeToLive(t.Context(), g.ID)
		require.Equal(t, codes.Unimplemented, status.Code(err))
		_, err = l.Leases(t.Context())
		require.Equal(t, codes.Unimplemented, status.Code(err))
	})
}

func openWatch(ctx context.Context, t *testing.T, serve func(pb.Watch_WatchServer) error) pb.Watch_WatchClient {
	cs, err := WatchClient(&fakeWatch{serve: serve}).Watch(ctx)
	require.NoError(t, err)
	return cs
}

func TestStreamCleanEnd(t *testing.T) {
	cs := openWatch(t.Context(), t, func(s pb.Watch_WatchServer) error {
		for {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				break
			}
		}
		for i := range int64(responseBuffer) {
			if err := s.Send(&pb.WatchResponse{WatchId: i}); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, cs.Send(&pb.WatchRequest{}))
	require.NoError(t, cs.CloseSend())
	require.NoError(t, cs.CloseSend())
	require.Equal(t, codes.Internal, status.Code(cs.Send(&pb.WatchRequest{})))
	for i := range int64(responseBuffer) {
		r, err := cs.Recv()
		require.NoError(t, err)
		require.Equal(t, i, r.WatchId)
	}
	for range 2 {
		_, err := cs.Recv()
		require.Equal(t, io.EOF, err)
	}
}

func TestStreamSendAfterTheEnd(t *testing.T) {
	cs := openWatch(t.Context(), t, func(pb.Watch_WatchServer) error { return rpctypes.ErrGRPCNoLeader })
	_, err := cs.Recv()
	require.Equal(t, rpctypes.ErrGRPCNoLeader, err)
	require.Eventually(t, func() bool { return errors.Is(cs.Send(&pb.WatchRequest{}), io.EOF) }, patience, time.Millisecond)
}

// TestStreamCancel ends the caller's context while both ends wait for the other, or have nothing to wait for.
func TestStreamCancel(t *testing.T) {
	for name, serve := range map[string]func(pb.Watch_WatchServer) error{
		"receiving": func(s pb.Watch_WatchServer) error { _, err := s.Recv(); return err },
		"sending": func(s pb.Watch_WatchServer) error {
			for {
				if err := s.Send(&pb.WatchResponse{}); err != nil {
					return err
				}
			}
		},
		"idle": func(s pb.Watch_WatchServer) error { <-s.Context().Done(); return s.Context().Err() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			ended := make(chan error, 1)
			cs := openWatch(ctx, t, func(s pb.Watch_WatchServer) error {
				err := serve(s)
				ended <- err
				return err
			})
			require.Equal(t, codes.DeadlineExceeded, status.Code(toStatus(<-ended)))
			_, err := cs.Recv()
			require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		})
	}
}

// TestStreamHandlerLeavesAGoroutine: etcd's own watch server returns while its receiving goroutine still waits.
func TestStreamHandlerLeavesAGoroutine(t *testing.T) {
	left := make(chan error, 2)
	cs := openWatch(t.Context(), t, func(s pb.Watch_WatchServer) error {
		var started sync.WaitGroup
		started.Add(1)
		go func() {
			started.Done()
			_, err := s.Recv()
			left <- err
			left <- s.Send(&pb.WatchResponse{})
		}()
		started.Wait()
		return nil
	})
	_, err := cs.Recv()
	require.Equal(t, io.EOF, err)
	require.Equal(t, codes.Canceled, status.Code(<-left))
	require.Equal(t, codes.Canceled, status.Code(<-left))
}

func TestStreamMetadata(t *testing.T) {
	release := make(chan struct{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	cs := openWatch(ctx, t, func(s pb.Watch_WatchServer) error {
		in, _ := metadata.FromIncomingContext(s.Context())
		if err := s.SetHeader(metadata.Pairs("saw", in.Get(rpctypes.MetadataRequireLeaderKey)[0])); err != nil {
			return err
		}
		s.SetTrailer(metadata.Pairs("t", "1"))
		if err := s.Send(&pb.WatchResponse{}); err != nil {
			return err
		}
		<-release
		s.SetTrailer(metadata.Pairs("t", "2"))
		return s.SendHeader(nil)
	})
	md, err := cs.Header()
	require.NoError(t, err)
	require.Equal(t, []string{rpctypes.MetadataHasLeader}, md.Get("saw"))
	close(release)
	_, err = cs.Recv()
	require.NoError(t, err)
	_, err = cs.Recv()
	require.Equal(t, codes.Internal, status.Code(err), "a second header is refused")
	require.Equal(t, []string{"1", "2"}, cs.Trailer().Get("t"))
}

func TestStreamHeaderOfTheDead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cs := openWatch(ctx, t, func(s pb.Watch_WatchServer) error { <-s.Context().Done(); return nil })
	cancel()
	_, err := cs.Header()
	if err != nil { // the handler may have been the quicker one
		require.Equal(t, codes.Canceled, status.Code(err))
	}
}

func TestStreamRawMessages(t *testing.T) {
	cs := openWatch(t.Context(), t, func(s pb.Watch_WatchServer) error {
		var req pb.WatchRequest
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		if err := s.SendMsg(&req); status.Code(err) != codes.Internal {
			return errors.New("sent a request for a response")
		}
		return s.SendMsg(&pb.WatchResponse{WatchId: req.GetCancelRequest().GetWatchId()})
	})
	require.Equal(t, codes.Internal, status.Code(cs.SendMsg(&pb.WatchResponse{})))
	require.NoError(t, cs.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 3}}}))
	var resp pb.WatchResponse
	require.NoError(t, cs.RecvMsg(&resp))
	require.EqualValues(t, 3, resp.WatchId)
	require.Equal(t, io.EOF, cs.RecvMsg(&resp))
	_, err := cs.Recv()
	require.Equal(t, io.EOF, err)
}

func BenchmarkUnary(b *testing.B) {
	c := KVClient(&fakeKV{rng: func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) { return nil, nil }})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Range(b.Context(), nil)
	}
}

func BenchmarkStream(b *testing.B) {
	c := WatchClient(&fakeWatch{serve: func(s pb.Watch_WatchServer) error {
		r := &pb.WatchResponse{}
		for s.Send(r) == nil {
		}
		return nil
	}})
	cs, err := c.Watch(b.Context())
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = cs.Recv()
	}
}
