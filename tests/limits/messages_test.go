package limits

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// most is what the borrowed clients take in one message, whatever a request allows.
const most = 4 << 20

func bounded(cfg *clientv3.Config) {
	limit := grpc.MaxCallRecvMsgSize(most)
	cfg.MaxCallRecvMsgSize = most
	cfg.DialOptions = append(cfg.DialOptions,
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(ctx, method, req, reply, cc, append(opts, limit)...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(ctx, desc, cc, method, append(opts, limit)...)
		}))
}

// TestSmallMessages: clients that take four megabytes at once get through with the largest values, whatever group commit, shared reads,
// streams and history make of them.
func TestSmallMessages(t *testing.T) {
	const keys, workers = 16, 8
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cluster := metaetcdtest.New(t, 2, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithClientConfig(bounded))
	key := func(i int) string { return fmt.Sprintf("k%02d", i) }
	value := func(i, round int) string {
		return string(bytes.Repeat([]byte{byte('a' + i), byte('0' + round)}, 700<<10))
	}
	all := func(f func(i int) error) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(workers)
		for i := range keys {
			g.Go(func() error { return f(i) })
		}
		require.NoError(t, g.Wait())
	}
	clients := []*metaetcd.Client{cluster.Client(t), cluster.Client(t)}
	one, other := clients[0], clients[1]
	watch := other.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	first, err := one.Get(ctx, "any")
	require.NoError(t, err)
	all(func(i int) error { _, err := one.Put(ctx, key(i), value(i, 0)); return err })
	// Processes are in each other's way: what is refused brings what is there.
	all(func(i int) error {
		for _, cli := range clients {
			if _, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Value(key(i)), ">", "")).
				Then(clientv3.OpPut(key(i), value(i, 1), clientv3.WithPrevKV())).Commit(); err != nil {
				return err
			}
		}
		return nil
	})
	all(func(i int) error {
		resp, err := other.Get(ctx, key(i))
		if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value(i, 1)) {
			err = fmt.Errorf("%s has another value", key(i))
		}
		return err
	})
	// A fresh process knows no key; it lists, compares and looks back.
	fresh := cluster.Client(t)
	list, err := fresh.Get(ctx, "k", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Len(t, list.Kvs, keys)
	for i, kv := range list.Kvs {
		require.Equal(t, value(i, 1), string(kv.Value))
	}
	var compares []clientv3.Cmp
	for i := range keys {
		compares = append(compares, clientv3.Compare(clientv3.Value(key(i)), "=", value(i, 1)[:8]))
	}
	txn, err := fresh.Txn(ctx).If(compares...).Else(clientv3.OpPut("k-else", "v")).Commit()
	require.NoError(t, err)
	require.False(t, txn.Succeeded)
	then, err := fresh.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision+keys))
	require.NoError(t, err)
	require.Len(t, then.Kvs, keys)
	again := fresh.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision+1))
	gone, err := fresh.Delete(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	require.NoError(t, err)
	require.Len(t, gone.PrevKvs, keys+1)
	for _, ch := range []clientv3.WatchChan{watch, again} {
		var last int64
		for resp := range ch {
			require.NoError(t, resp.Err())
			if last = resp.Events[len(resp.Events)-1].Kv.ModRevision; last >= gone.Header.Revision {
				break
			}
		}
		require.Equal(t, gone.Header.Revision, last)
	}
}
