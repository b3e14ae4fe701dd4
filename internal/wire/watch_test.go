package wire_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/wire"
)

// watched answers every watch with the same responses.
type watched struct {
	pb.UnimplementedWatchServer
	responses []*pb.WatchResponse
	end       error
	asked     *pb.WatchCreateRequest
}

func (s *watched) Watch(stream pb.Watch_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	s.asked = req.GetCreateRequest()
	for _, resp := range append([]*pb.WatchResponse{{Created: true}}, s.responses...) {
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	if s.end == nil {
		<-stream.Context().Done()
	}
	return s.end
}

func (s *watched) dial(t *testing.T, opts ...grpc.DialOption) pb.WatchClient {
	t.Helper()
	addr := serve(t, func(g *grpc.Server) { pb.RegisterWatchServer(g, s) })
	return watchesOf(t, (&server{addr: addr}).dial(t, clientv3.Config{}, opts...))
}

// response has an event of a size for each revision.
func response(fragment bool, size int, revs ...int64) *pb.WatchResponse {
	resp := &pb.WatchResponse{Fragment: fragment}
	for _, rev := range revs {
		resp.Events = append(resp.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Value: make([]byte, size), ModRevision: rev}})
	}
	return resp
}

// Revisions come whole, whatever fragments they come in, and the client's own limit of a message does not matter.
func TestFragments(t *testing.T) {
	s := &watched{responses: []*pb.WatchResponse{
		response(false, 1, 5, 5, 6),
		response(true, 1<<10, 7, 7), response(true, 1<<10, 7), response(true, 1<<10, 7, 8), response(false, 1<<10, 8, 9),
		{}, // progress
		response(true, 1, 10), response(false, 1, 11),
	}}
	c := s.dial(t, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(512)))
	enough := errors.New("enough")
	var got [][]int64
	err := wire.Watch(t.Context(), c, 5, true, func(evs []*mvccpb.Event) error {
		if len(evs) == 0 {
			return nil
		}
		var revs []int64
		for _, ev := range evs {
			revs = append(revs, ev.Kv.ModRevision)
		}
		if got = append(got, revs); revs[len(revs)-1] == 11 {
			return enough
		}
		return nil
	})
	require.Equal(t, enough, err)
	require.Equal(t, [][]int64{{5, 5, 6}, {7, 7, 7, 7}, {8, 8, 9}, {10, 11}}, got)
	require.True(t, s.asked.Fragment)
	require.True(t, s.asked.PrevKv)
	require.EqualValues(t, 5, s.asked.StartRevision)
}

func TestWatchesEnd(t *testing.T) {
	none := func([]*mvccpb.Event) error { return nil }
	err := wire.Watch(t.Context(), (&watched{responses: []*pb.WatchResponse{{Canceled: true, CompactRevision: 8}}}).dial(t), 1, false, none)
	require.Equal(t, &wire.CompactedError{Rev: 8}, err)
	require.False(t, wire.BrokeOff(err))

	err = wire.Watch(t.Context(), (&watched{responses: []*pb.WatchResponse{{Canceled: true, CancelReason: "no"}}}).dial(t), 1, false, none)
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.False(t, wire.BrokeOff(err))

	err = wire.Watch(t.Context(), (&watched{end: status.Error(codes.Unavailable, "gone")}).dial(t), 1, false, none)
	require.True(t, wire.BrokeOff(err))
	err = wire.Watch(t.Context(), (&watched{end: rpctypes.ErrGRPCNoLeader}).dial(t), 1, false, none)
	require.ErrorIs(t, err, rpctypes.ErrGRPCNoLeader)
	require.False(t, wire.BrokeOff(err))

	ctx, cancel := context.WithCancel(t.Context())
	s := &watched{responses: []*pb.WatchResponse{response(false, 1, 1)}}
	err = wire.Watch(ctx, s.dial(t), 1, false, func([]*mvccpb.Event) error {
		cancel()
		return nil
	})
	require.Error(t, err)
}

// A server that sends nothing, not even progress, is given up.
func TestSilentServers(t *testing.T) {
	err := wire.Watch(t.Context(), (&watched{}).dial(t), 1, false, func([]*mvccpb.Event) error { return nil })
	require.ErrorContains(t, err, "silent")
	require.True(t, wire.BrokeOff(err))
}
