package client

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestCompactOutlivesLeaderChanges: a member whose leader is lost with a proposal answers so after seconds, whether the proposal was
// applied or not. Compact goes on, and is done once it returns.
func TestCompactOutlivesLeaderChanges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		applied bool
		is      func(req any) bool
	}{
		"record, not applied":     {false, raisesCompacted},
		"record, applied":         {true, raisesCompacted},
		"compaction, not applied": {false, compacts},
		"compaction, applied":     {true, compacts},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lost atomic.Int32
			cluster := newCluster(t, 2, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
				cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
					func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
						if !c.is(req) || !lost.CompareAndSwap(0, 1) {
							return invoke(ctx, method, req, reply, conn, opts...)
						}
						if c.applied {
							if err := invoke(ctx, method, req, reply, conn, opts...); err != nil {
								return err
							}
						}
						return rpctypes.ErrGRPCTimeoutDueToLeaderFail
					}))
			}))
			cli := cluster.Client(t)
			var rev int64
			for _, key := range []string{"a", "b", "c", "d"} {
				rev = put(t, cli, key, "v")
			}
			ctx := within(t, patience)
			_, err := cli.Compact(ctx, rev)
			require.NoError(t, err)
			require.EqualValues(t, 1, lost.Load())
			_, err = cli.Get(ctx, "a", clientv3.WithRev(rev-1))
			require.ErrorIs(t, err, rpctypes.ErrCompacted)
			_, err = cli.Compact(ctx, rev)
			require.ErrorIs(t, err, rpctypes.ErrCompacted)
			require.EqualValues(t, rev+1, put(t, cli, "a", "w"))
		})
	}
}

func raisesCompacted(req any) bool {
	txn, ok := req.(*pb.TxnRequest)
	return ok && len(txn.Compare) == 1 && bytes.Equal(txn.Compare[0].Key, []byte(record.KeyCompacted))
}

func compacts(req any) bool {
	_, ok := req.(*pb.CompactionRequest)
	return ok
}
