package wire_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// serversOf returns the servers of a cluster, and what ends them.
func serversOf(t *testing.T, servers ...*server) *wire.Servers {
	t.Helper()
	var eps []string
	for _, s := range servers {
		eps = append(eps, s.addr)
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: eps, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cli.Close()) })
	return serversBehind(t, cli)
}

func serversBehind(t *testing.T, cli *clientv3.Client) *wire.Servers {
	life := lifetime.New(context.Background())
	all := wire.NewServers(life, cli)
	t.Cleanup(func() {
		life.End(lifetime.ErrClosed)
		life.Wait()
		all.Close()
	})
	return all
}

func watchesOf(t *testing.T, cli *clientv3.Client) pb.WatchClient {
	return serversBehind(t, cli).Watches()
}

// untilItsEnd does not answer.
func untilItsEnd(ctx context.Context, _ int32) error {
	<-ctx.Done()
	return ctx.Err()
}

// One of two servers hangs. A transaction that writes is with it until its own end, unless it is given up: it is not sent twice, and
// its outcome is unknown. The others go to the server that answers.
func TestWritesAreGivenUpOnAServerThatHangs(t *testing.T) {
	hung, well := startServer(t), startServer(t)
	hung.answer = untilItsEnd
	kv := serversOf(t, hung, well).KV()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lost := 0
	for n := int32(1); n < 100; n++ {
		_, err := kv.Txn(ctx, put)
		if err != nil {
			require.Equal(t, codes.Unavailable, status.Code(err))
			require.NoError(t, ctx.Err())
			lost++
		}
		require.Equal(t, n, hung.arrived.Load()+well.arrived.Load(), "each is sent once")
	}
	require.EqualValues(t, lost, hung.arrived.Load())
	require.NotZero(t, lost)
	require.Less(t, lost, 5, "a server that hangs is gone around; the first writes may come before another one is found")
}

// Where nobody answers, it is the cluster that is away, or this process that is slow: the request keeps its time.
func TestWritesWaitForAClusterThatIsAway(t *testing.T) {
	one, other := startServer(t), startServer(t)
	one.answer, other.answer = untilItsEnd, untilItsEnd
	kv := serversOf(t, one, other).KV()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := kv.Txn(ctx, put)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	end, _ := ctx.Deadline()
	require.Less(t, time.Until(end), 100*time.Millisecond, "the server may notice a moment before")
}

// A server that is slow is not one that hangs: it answers in time, or the more patience it finds.
func TestSlowServersDoNotHang(t *testing.T) {
	one, other := startServer(t), startServer(t)
	var slow atomic.Int64
	answer := func(context.Context, int32) error {
		time.Sleep(time.Duration(slow.Load()))
		return nil
	}
	one.answer, other.answer = answer, answer
	kv := serversOf(t, one, other).KV()
	for took := time.Millisecond; took < 1500*time.Millisecond; took *= 2 {
		slow.Store(int64(took))
		for range 4 {
			_, err := kv.Txn(t.Context(), put)
			require.NoError(t, err)
		}
	}
}
