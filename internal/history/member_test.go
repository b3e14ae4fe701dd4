package history

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// server answers every watch with the same responses, and has been compacted, or not.
type server struct {
	pb.UnimplementedWatchServer
	pb.UnimplementedKVServer
	responses []*pb.WatchResponse
	end       error // of the stream, after the responses
	asked     *pb.WatchCreateRequest
	compacted int64
}

func (s *server) Watch(stream pb.Watch_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	s.asked = req.GetCreateRequest()
	responses := append([]*pb.WatchResponse{{Created: true}}, s.responses...)
	for _, resp := range responses {
		resp = proto.Clone(resp).(*pb.WatchResponse)
		resp.Header = &pb.ResponseHeader{Revision: 9}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	if s.end != nil {
		return s.end
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s *server) Range(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 9}}
	switch {
	case req.Revision != 0 && req.Revision < s.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	case req.Revision > 9:
		return nil, rpctypes.ErrGRPCFutureRev
	case req.Revision == 8:
		resp.Kvs = []*mvccpb.KeyValue{{Key: req.Key, Value: []byte("not ours")}}
	case string(req.Key) == record.KeyClock && req.Revision > 6:
		resp.Kvs = []*mvccpb.KeyValue{{Key: req.Key, Value: record.ClockRecord{Epoch: 3, Highest: 77, Closed: 70}.Value()}}
	}
	return resp, nil
}

func (s *server) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 9}, Succeeded: true}
	for _, op := range req.Success {
		found, err := s.Range(ctx, op.GetRequestRange())
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: found}})
	}
	return resp, nil
}

func (s *server) member() Member {
	kv := bridge.KVClient(s)
	return Of(kv, bridge.WatchClient(s), func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) { return kv.Range(ctx, req) })
}

func eventsAt(revs ...int64) *pb.WatchResponse {
	resp := &pb.WatchResponse{}
	for _, rev := range revs {
		resp.Events = append(resp.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: rev}})
	}
	return resp
}

// watch collects how many events each revision had, from revision 5 up to 7.
func watch(ctx context.Context, m Member) (revs [][2]int64, err error) {
	err = m.Watch(ctx, 5, true, func(r mergedlog.MemberRevision) (bool, error) {
		revs = append(revs, [2]int64{r.Rev, int64(len(r.Events))})
		return r.Rev < 7, nil
	})
	return revs, err
}

func TestWatch(t *testing.T) {
	s := &server{responses: []*pb.WatchResponse{eventsAt(5, 5, 6), {}, eventsAt(7, 8), eventsAt(9)}}
	revs, err := watch(context.Background(), s.member())
	require.NoError(t, err)
	require.Equal(t, [][2]int64{{5, 2}, {6, 1}, {7, 1}}, revs)
	require.Equal(t, int64(5), s.asked.StartRevision)
	require.Equal(t, []byte{0}, s.asked.Key)
	require.Equal(t, []byte{0}, s.asked.RangeEnd)
	require.True(t, s.asked.PrevKv)

	boom := errors.New("boom")
	err = s.member().Watch(context.Background(), 5, false, func(mergedlog.MemberRevision) (bool, error) { return true, boom })
	require.Equal(t, boom, err)
	require.False(t, s.asked.PrevKv)

	ctx, cancel := context.WithCancel(context.Background())
	err = s.member().Watch(ctx, 5, false, func(r mergedlog.MemberRevision) (bool, error) {
		if r.Rev == 9 {
			cancel()
		}
		return true, nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestWatchEnds(t *testing.T) {
	s := &server{responses: []*pb.WatchResponse{eventsAt(5), {Canceled: true, CompactRevision: 8}}}
	revs, err := watch(context.Background(), s.member())
	require.Equal(t, &MemberCompactedError{Rev: 8}, err)
	require.EqualError(t, err, "metaetcd: member is compacted at its revision 8")
	require.Len(t, revs, 1)

	s = &server{end: rpctypes.ErrGRPCNoLeader}
	_, err = watch(context.Background(), s.member())
	require.ErrorIs(t, err, rpctypes.ErrNoLeader)

	s = &server{responses: []*pb.WatchResponse{{Canceled: true}}}
	_, err = watch(context.Background(), s.member())
	require.Error(t, err)
}

func TestClock(t *testing.T) {
	ctx := context.Background()
	m := (&server{compacted: 5}).member()
	clock, err := m.Clock(ctx, 7)
	require.NoError(t, err)
	require.Equal(t, record.ClockRecord{Epoch: 3, Highest: 77, Closed: 70}, clock)
	clock, err = m.Clock(ctx, 5)
	require.NoError(t, err)
	require.Zero(t, clock)
	_, err = m.Clock(ctx, 4)
	require.Equal(t, &MemberCompactedError{}, err)
	require.EqualError(t, err, "metaetcd: member is compacted")
	_, err = m.Clock(ctx, 10)
	require.ErrorIs(t, err, rpctypes.ErrFutureRev)
	_, err = m.Clock(ctx, 8)
	require.ErrorIs(t, err, record.ErrMalformed)
}
