package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

func put(t *testing.T, e *engine.Engine, key string) int64 {
	t.Helper()
	resp, err := e.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte("v")})}})
	require.NoError(t, err)
	return resp.Header.Revision
}

func get(t *testing.T, e *engine.Engine, key string) *pb.RangeResponse {
	t.Helper()
	resp, err := e.Reads.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
	require.NoError(t, err)
	return resp
}

// A feed that compaction has overtaken is replaced: who comes meanwhile waits, and is told no less than before.
func TestAFeedThatWasOvertakenIsReplaced(t *testing.T) {
	fakemeta.Run(t, 2, func(t *testing.T, w fakemeta.World) {
		c, e := w.Cluster, w.Engine
		key := c.Key(0, 0)
		rev, before := put(t, e, key), e.Feeds.Now()
		require.NotNil(t, before)

		// The stream breaks off, and the member is compacted before it is opened again.
		m := c.Members[0]
		m.SetDown(true)
		synctest.Wait()
		m.SetDown(false)
		fence := &pb.PutRequest{Key: []byte(record.KeyFence), Value: m.Get(record.KeyFence)}
		for range 3 {
			_, err := m.Client(nil).Put(t.Context(), fence)
			require.NoError(t, err)
		}
		_, err := m.Client(nil).Compact(t.Context(), &pb.CompactionRequest{Revision: m.Revision()})
		require.NoError(t, err)

		<-before.Done()
		require.ErrorIs(t, before.Err(), mergedlog.ErrOverrun)
		got := get(t, e, key)
		require.Len(t, got.Kvs, 1)
		require.Equal(t, rev, got.Kvs[0].ModRevision)
		require.GreaterOrEqual(t, got.Header.Revision, rev)
		after := e.Feeds.Now()
		require.NotSame(t, before, after)
		require.NoError(t, after.Err())
		require.Greater(t, put(t, e, key), rev)
		require.False(t, e.Life.Over())
	})
}

// A write that somebody else has made on a member ends the process: nobody could say what its revision is.
func TestAForeignWriteEndsTheProcess(t *testing.T) {
	fakemeta.Run(t, 2, func(t *testing.T, w fakemeta.World) {
		c, e := w.Cluster, w.Engine
		key := c.Key(0, 0)
		put(t, e, key)
		_, err := c.Members[0].Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte("stray"), Value: []byte("x")})
		require.NoError(t, err)
		<-e.Life.Context().Done()
		require.ErrorIs(t, e.Life.Cause(), mergedlog.ErrForeignWrite)
		synctest.Wait()

		sent := m0Revision(c)
		_, err = e.Writes.Do(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(key)})}})
		require.ErrorIs(t, err, mergedlog.ErrForeignWrite)
		_, err = e.Reads.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
		require.ErrorIs(t, err, mergedlog.ErrForeignWrite)
		time.Sleep(time.Minute)
		require.Equal(t, sent, m0Revision(c), "nothing is sent any more")
		e.Close()
		require.ErrorIs(t, e.Life.Cause(), mergedlog.ErrForeignWrite)
	})
}

func m0Revision(c *fakemeta.Cluster) int64 { return c.Members[0].Revision() }

// Whichever request is refused while a process opens, Open fails, and leaves nothing: no goroutine, which the bubble would wait for, and no
// metrics.
func TestWhereverOpeningFailsNothingIsLeft(t *testing.T) {
	refused := status.Error(codes.PermissionDenied, "refused")
	for _, created := range []bool{false, true} {
		failures, opened := 0, false
		for allowed := int64(0); !opened; allowed++ {
			synctest.Test(t, func(t *testing.T) {
				c := fakemeta.New(t, 2)
				if created {
					c.Open().Close()
				}
				passed := make(chan struct{}, allowed)
				gate := func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
					select {
					case passed <- struct{}{}:
						return do()
					default:
						return nil, refused
					}
				}
				for _, g := range append(c.Gates, c.Clock) {
					g.Set(gate)
				}
				reg := prometheus.NewRegistry()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				e, err := c.Try(ctx, reg)
				if err == nil {
					opened = true
					e.Close()
				} else {
					failures++
					require.Nil(t, e)
					require.ErrorContains(t, err, "refused")
				}
				left, err := reg.Gather()
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
		require.Greater(t, failures, 10, "topology, clock, leases, streams and fences ask for more")
	}
}
