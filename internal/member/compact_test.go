package member

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
)

// The record only grows, and who finds it there already is told so, but not by its own request whose answer was lost.
func TestRaiseCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := created(t)
		var lost error
		m := open(t, s.Client(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			resp, err := do()
			if lost != nil {
				resp, err, lost = nil, lost, nil
			}
			return resp, err
		}))
		raise := func(rev int64) error { return m.RaiseCompacted(t.Context(), rev) }
		at := func() int64 {
			r, err := m.ReadRecords(t.Context())
			require.NoError(t, err)
			return r.Compacted
		}
		require.NoError(t, raise(5))
		require.ErrorIs(t, raise(5), rpctypes.ErrGRPCCompacted)
		require.ErrorIs(t, raise(4), rpctypes.ErrGRPCCompacted)
		require.EqualValues(t, 5, at())
		for i, lose := range []error{errDown, status.Error(codes.Unknown, "it was sent")} {
			lost = lose
			require.NoError(t, raise(int64(6+i)), "it was this request that raised it")
			require.EqualValues(t, 6+i, at())
			lost = lose
			require.ErrorIs(t, raise(5), rpctypes.ErrGRPCCompacted, "it is higher than this request can have raised it")
		}
		_, err := m.KV.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(record.KeyCompacted)})
		require.NoError(t, err)
		require.ErrorContains(t, raise(9), "member a has lost its record of the compacted revision")
	})
}

// A member is compacted once it is there, and no further than it is asked; one that is further already has done what was asked.
func TestCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := created(t)
		s.KeepHistory()
		put(t, s, "a", header(20).Value(nil))
		put(t, s, "b", header(21).Value(nil))
		down := 3
		m := open(t, s.Client(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if _, ok := req.(*pb.CompactionRequest); ok && down > 0 {
				down--
				return nil, etcdfake.ErrLost
			}
			return do()
		}))
		rev := s.Revision() - 1
		require.NoError(t, m.Compact(t.Context(), rev, false))
		require.Zero(t, down)
		require.Equal(t, rev, s.Compacted())
		require.NoError(t, m.Compact(t.Context(), rev-1, false))
		require.NoError(t, m.Compact(t.Context(), 0, false), "there is nothing to do")
		require.Equal(t, rev, s.Compacted())
		require.ErrorIs(t, m.Compact(t.Context(), rev+100, false), rpctypes.ErrGRPCFutureRev)
	})
}
