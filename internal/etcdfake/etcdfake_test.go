package etcdfake_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/request"
)

func put(key, value string) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func touch(key string) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(key), IgnoreValue: true})
}

func get(end string) *pb.RequestOp {
	return request.Range(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte(end)})
}

func del(key, end string) *pb.RequestOp {
	return request.Delete(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
}

func nested(t *pb.TxnRequest) *pb.RequestOp {
	return request.Txn(t)
}

func version(key string, n int64) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: n},
	}
}

func TestATransactionIsOneRevision(t *testing.T) {
	s := etcdfake.New(7)
	kv := s.Client(nil)
	resp, err := kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1"), put("b", "2"), get("\x00")}})
	require.NoError(t, err)
	require.EqualValues(t, 7, resp.Header.ClusterId)
	require.EqualValues(t, 2, resp.Header.Revision)
	for _, kv := range resp.Responses[2].GetResponseRange().Kvs {
		require.EqualValues(t, [3]int64{2, 2, 1}, [3]int64{kv.CreateRevision, kv.ModRevision, kv.Version})
	}
	resp, err = kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{touch("a"), del("b", ""), get("c")}})
	require.NoError(t, err)
	require.EqualValues(t, 3, resp.Header.Revision)
	left := resp.Responses[2].GetResponseRange().Kvs
	require.Len(t, left, 1)
	require.Equal(t, "1", string(left[0].Value))
	require.EqualValues(t, [3]int64{2, 3, 2}, [3]int64{left[0].CreateRevision, left[0].ModRevision, left[0].Version})

	resp, err = kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{get(""), del("x", "")}})
	require.NoError(t, err)
	require.EqualValues(t, 3, resp.Header.Revision, "what changes nothing has no revision")
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("b")})
	require.NoError(t, err)
	got, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("b")})
	require.NoError(t, err)
	require.EqualValues(t, 1, got.Kvs[0].Version, "a key that was deleted begins anew")
}

// Nested compares see the state before the transaction, not the writes in front of them.
func TestNestedComparesAreEvaluatedFirst(t *testing.T) {
	s := etcdfake.New(7)
	resp, err := s.Client(nil).Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		put("a", "1"),
		nested(&pb.TxnRequest{Compare: []*pb.Compare{version("a", 0)}, Success: []*pb.RequestOp{put("b", "2")}}),
		nested(&pb.TxnRequest{Compare: []*pb.Compare{version("a", 1)}, Success: []*pb.RequestOp{put("c", "3")}}),
	}})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, s.Keys())
	require.True(t, resp.Responses[1].GetResponseTxn().Succeeded)
	require.False(t, resp.Responses[2].GetResponseTxn().Succeeded)
}

func TestValueComparesOfAbsentKeysFail(t *testing.T) {
	s := etcdfake.New(7)
	for _, result := range []pb.Compare_CompareResult{pb.Compare_EQUAL, pb.Compare_NOT_EQUAL, pb.Compare_LESS} {
		resp, err := s.Client(nil).Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{{
			Key: []byte("a"), Target: pb.Compare_VALUE, Result: result, TargetUnion: &pb.Compare_Value{Value: []byte("x")},
		}}})
		require.NoError(t, err)
		require.False(t, resp.Succeeded)
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	many := make([]*pb.RequestOp, 129)
	for i := range many {
		many[i] = get("")
	}
	branches := nested(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")}, Failure: []*pb.RequestOp{put("a", "2")}})
	for name, tc := range map[string]struct {
		ops  []*pb.RequestOp
		want error
	}{
		"too many":             {many, rpctypes.ErrGRPCTooManyOps},
		"too many below":       {append([]*pb.RequestOp{nested(&pb.TxnRequest{Success: many[:64]})}, many[:64]...), rpctypes.ErrGRPCTooManyOps},
		"empty key":            {[]*pb.RequestOp{put("", "")}, rpctypes.ErrGRPCEmptyKey},
		"twice":                {[]*pb.RequestOp{put("a", ""), put("a", "")}, rpctypes.ErrGRPCDuplicateKey},
		"twice below":          {[]*pb.RequestOp{branches, branches}, rpctypes.ErrGRPCDuplicateKey},
		"on both branches":     {[]*pb.RequestOp{branches}, nil},
		"put and delete":       {[]*pb.RequestOp{put("b", ""), del("a", "c")}, rpctypes.ErrGRPCDuplicateKey},
		"put beside a delete":  {[]*pb.RequestOp{put("c", ""), del("a", "c")}, nil},
		"touching what is not": {[]*pb.RequestOp{touch("z")}, rpctypes.ErrGRPCKeyNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := etcdfake.New(7).Client(nil).Txn(t.Context(), &pb.TxnRequest{Success: tc.ops})
			require.ErrorIs(t, err, tc.want)
		})
	}
}

func TestLostRepliesHaveHappened(t *testing.T) {
	s := etcdfake.New(7)
	for faults, want := range map[etcdfake.Faults]int64{{LoseRequest: 1}: 1, {LoseReply: 1}: 2} {
		_, err := s.Client(faults.Interceptor()).Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		require.ErrorIs(t, err, etcdfake.ErrLost)
		require.Equal(t, want, s.Revision())
		s.Wipe()
	}
}

func TestInterceptorsSeeRequests(t *testing.T) {
	var writes []bool
	kv := etcdfake.New(7).Client(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		writes = append(writes, etcdfake.Writes(req))
		return do()
	})
	_, err := kv.Txn(t.Context(), &pb.TxnRequest{Failure: []*pb.RequestOp{nested(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "")}})}})
	require.NoError(t, err)
	_, err = kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{get("")}})
	require.NoError(t, err)
	_, err = kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 1})
	require.NoError(t, err)
	_, err = kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 1})
	require.ErrorIs(t, err, rpctypes.ErrGRPCCompacted)
	require.Equal(t, []bool{true, false, false, false}, writes)
}
