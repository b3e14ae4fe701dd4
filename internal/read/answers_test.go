package read_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/request"
)

// TestAReplayKeepsTheOrderOfATransaction: each of its reads finds the writes in front of it, and none behind.
func TestAReplayKeepsTheOrderOfATransaction(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b := w.Key(0, 0)+"a", w.Key(0, 0)+"b"
		w.put(a, "1")
		w.put(b, "1")
		resp, err := w.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
			request.Range(get(a)),
			request.Put(&pb.PutRequest{Key: []byte(a), Value: []byte("2"), PrevKv: true}),
			request.Range(everything()),
			request.Delete(&pb.DeleteRangeRequest{Key: []byte(b), PrevKv: true}),
			request.Range(everything()),
		}})
		require.NoError(t, err)
		texts := func(i int) []string { return answer{RangeResponse: resp.Responses[i].GetResponseRange()}.values(t) }
		require.Equal(t, []string{"1"}, texts(0))
		require.Equal(t, "1", string(resp.Responses[1].GetResponsePut().PrevKv.Value))
		require.Equal(t, []string{"2", "1"}, texts(2))
		require.Equal(t, "1", string(resp.Responses[3].GetResponseDeleteRange().PrevKvs[0].Value))
		require.Equal(t, []string{"2"}, texts(4))
		require.Equal(t, resp.Header.Revision, resp.Responses[4].GetResponseRange().Kvs[0].ModRevision)
	})
}

// TestALostAnswerIsReplayed: a write whose answer was lost is found on the log, and what it would have answered is read.
func TestALostAnswerIsReplayed(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		w.put(key, "1")
		lost := false
		w.Gates[0].Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			resp, err := do()
			if etcdfake.Writes(req) && !lost {
				lost = true
				return nil, etcdfake.ErrLost
			}
			return resp, err
		})
		resp, err := w.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
			request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte("2"), PrevKv: true}),
		}})
		require.NoError(t, err)
		require.True(t, lost)
		require.Equal(t, "1", string(resp.Responses[0].GetResponsePut().PrevKv.Value))
		got := <-w.ask(get(key))
		require.Equal(t, []string{"2"}, got.values(t))
		require.EqualValues(t, 2, got.Kvs[0].Version, "it was written once")
		require.Equal(t, resp.Header.Revision, got.Kvs[0].ModRevision)
	})
}

// TestStreamsGrow: a stream begins with a small chunk, grows, and is one snapshot in the order of keys.
func TestStreamsGrow(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var want []string
		for member := range w.Cluster.Members {
			var ops []*pb.RequestOp
			for i := range 100 {
				key := fmt.Sprintf("%s%03d", w.Key(member, 0), i)
				want = append(want, key)
				ops = append(ops, putOp(key, "v"))
			}
			_, err := w.Writes.Do(t.Context(), &pb.TxnRequest{Success: ops})
			require.NoError(t, err)
		}
		slices.Sort(want)
		var keys []string
		var sizes []int
		var last *pb.RangeResponse
		err := w.Reads.Stream(t.Context(), everything(), func(r *pb.RangeResponse) error {
			require.Nil(t, last.GetHeader(), "only the last chunk has a header")
			for _, kv := range r.Kvs {
				keys = append(keys, string(kv.Key))
			}
			sizes, last = append(sizes, len(r.Kvs)), r
			if len(sizes) == 1 {
				w.put(want[150], "later")
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, want, keys)
		require.Equal(t, 10, sizes[0])
		require.Equal(t, 160, sizes[1])
		require.EqualValues(t, 200, last.Count)
		require.False(t, last.More)
	})
}
