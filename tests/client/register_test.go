package client

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// serve registers a client of the meta cluster on a gRPC server and returns a plain etcd client of that.
func serve(t *testing.T, meta *metaetcd.Client) *clientv3.Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	meta.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	cli := lazy(t, ln.Addr().String())
	t.Cleanup(func() {
		_ = cli.Close()
		srv.Stop()
		require.NoError(t, <-served)
	})
	return cli
}

// TestRegister: what is registered on a server is etcd to a client that knows nothing of metaetcd.
func TestRegister(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	meta := cluster.Client(t)
	cli := serve(t, meta)
	ctx := within(t, patience)

	w := cli.Watch(clientv3.WithRequireLeader(t.Context()), "", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	created := takeResponse(t, w)
	require.True(t, created.Created)
	require.EqualValues(t, 1, created.Header.Revision)

	require.EqualValues(t, 2, put(t, cli, "a", "1"))
	require.EqualValues(t, 3, put(t, meta, "b", "1"))
	prev, err := cli.Put(ctx, "a", "2", clientv3.WithPrevKV())
	require.NoError(t, err)
	require.Equal(t, "1", string(prev.PrevKv.Value))
	txn, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision("a"), "=", 4)).Then(clientv3.OpDelete("a"), clientv3.OpGet("b")).Commit()
	require.NoError(t, err)
	require.True(t, txn.Succeeded)
	require.EqualValues(t, 1, txn.Responses[1].GetResponseRange().Count)

	require.Equal(t, []string{"b=1"}, list(t, cli))
	require.Equal(t, []string{"a=2", "b=1"}, list(t, cli, clientv3.WithRev(4)))
	require.Equal(t, []string{"b=1"}, list(t, cli, clientv3.WithSerializable()))
	evs := take(t, w, 4)
	require.Equal(t, []string{"2 a=1", "3 b=1", "4 a=2", "5 a"}, describe(evs))
	require.Equal(t, "2", string(evs[3].PrevKv.Value))

	require.NoError(t, cli.RequestProgress(clientv3.WithRequireLeader(t.Context())))
	progress := takeResponse(t, w)
	require.True(t, progress.IsProgressNotify())
	require.GreaterOrEqual(t, progress.Header.Revision, int64(5))

	stream, err := cli.GetStream(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(4))
	require.NoError(t, err)
	all, err := clientv3.GetStreamToGetResponse(stream)
	require.NoError(t, err)
	require.Len(t, all.Kvs, 2)
	require.Equal(t, clusterID(t, meta), all.Header.ClusterId)

	_, err = cli.Compact(ctx, 4)
	require.NoError(t, err)
	old := takeResponse(t, cli.Watch(t.Context(), "a", clientv3.WithRev(3)))
	require.ErrorIs(t, old.Err(), rpctypes.ErrCompacted)
	require.EqualValues(t, 4, old.CompactRevision)
	require.Equal(t, []string{"4 a=2", "5 a"}, describe(take(t, cli.Watch(t.Context(), "a", clientv3.WithRev(4)), 2)))

	_, err = cli.Status(ctx, cli.Endpoints()[0])
	require.Equal(t, codes.Unimplemented, status.Code(err), "only KV and Watch are offered")
}

// errorCases are requests that fail, with etcd's own errors or with metaetcd's. At revision 8, compacted at 5.
var errorCases = []struct {
	name string
	do   func(context.Context, clientv3.KV) error
	want error // nil: by code and text
	code codes.Code
	says []string
}{
	{name: "compacted read", want: rpctypes.ErrCompacted, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Get(ctx, "k0", clientv3.WithRev(4))
		return err
	}},
	{name: "compacted read of everything", want: rpctypes.ErrCompacted, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(4), clientv3.WithSerializable())
		return err
	}},
	{name: "compacted stream", want: rpctypes.ErrCompacted, do: func(ctx context.Context, kv clientv3.KV) error {
		stream, err := kv.GetStream(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(4))
		if err == nil {
			_, err = clientv3.GetStreamToGetResponse(stream)
		}
		return err
	}},
	{name: "compacted read in a transaction", want: rpctypes.ErrCompacted, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(clientv3.OpGet("k0", clientv3.WithRev(4)), clientv3.OpPut("k0", "never")).Commit()
		return err
	}},
	{name: "future read", want: rpctypes.ErrFutureRev, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Get(ctx, "k0", clientv3.WithRev(1000))
		return err
	}},
	{name: "future read in a transaction", want: rpctypes.ErrFutureRev, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(clientv3.OpGet("k0", clientv3.WithRev(1000)), clientv3.OpPut("k0", "never")).Commit()
		return err
	}},
	{name: "compact what is compacted", want: rpctypes.ErrCompacted, do: compact(5)},
	{name: "compact before what is compacted", want: rpctypes.ErrCompacted, do: compact(1)},
	{name: "compact nothing", want: rpctypes.ErrCompacted, do: compact(0)},
	{name: "compact before the beginning", want: rpctypes.ErrCompacted, do: compact(-1)},
	{name: "compact the future", want: rpctypes.ErrFutureRev, do: compact(1000)},
	{name: "empty key", want: rpctypes.ErrEmptyKey, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "", "v")
		return err
	}},
	{name: "duplicate key", want: rpctypes.ErrDuplicateKey, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(clientv3.OpPut("k0", "1"), clientv3.OpPut("k0", "2")).Commit()
		return err
	}},
	{name: "too many operations", want: rpctypes.ErrTooManyOps, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(make129()...).Commit()
		return err
	}},
	{name: "keep the value of an absent key", want: rpctypes.ErrKeyNotFound, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "absent", "", clientv3.WithIgnoreValue())
		return err
	}},
	{name: "unknown lease", want: rpctypes.ErrLeaseNotFound, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "k0", "v", clientv3.WithLease(4711))
		return err
	}},
	{name: "too large", want: rpctypes.ErrRequestTooLarge, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "k0", strings.Repeat("v", 1900<<10))
		return err
	}},
	{name: "reserved key", code: codes.InvalidArgument, says: []string{"metaetcd: key is reserved"}, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "\x00topology", "mine")
		return err
	}},
	{name: "unknown lease, over members", want: rpctypes.ErrLeaseNotFound, do: func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(clientv3.OpDelete("k", clientv3.WithPrefix()), clientv3.OpPut("l", "v", clientv3.WithLease(4711))).Commit()
		return err
	}},
}

func compact(rev int64) func(context.Context, clientv3.KV) error {
	return func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Compact(ctx, rev)
		return err
	}
}

func make129() []clientv3.Op {
	var ops []clientv3.Op
	for i := range 129 {
		ops = append(ops, clientv3.OpPut("k"+string(rune('A'+i)), "v"))
	}
	return ops
}

// TestErrors: errors are the same in process and over gRPC: etcd's by identity, metaetcd's as a status.
func TestErrors(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	meta := cluster.Client(t)
	for i := range 7 {
		put(t, meta, "k"+string(rune('0'+i)), "v")
	}
	_, err := meta.Compact(within(t, patience), 5)
	require.NoError(t, err)
	before := list(t, meta)
	surfaces := map[string]clientv3.KV{"in process": meta, "installed": installed(t, cluster, meta), "over gRPC": serve(t, meta)}
	for surface, kv := range surfaces {
		for _, c := range errorCases {
			t.Run(surface+"/"+c.name, func(t *testing.T) {
				err := c.do(within(t, patience), kv)
				if c.want != nil {
					require.Equal(t, c.want, err, "etcd's errors are compared by identity")
				} else {
					require.Equal(t, c.code, status.Code(err), "%v", err)
				}
				for _, s := range c.says {
					require.ErrorContains(t, err, s)
				}
			})
		}
	}
	require.Equal(t, before, list(t, meta), "something was written")

	// In process, metaetcd's own errors keep their type and identity.
	_, err = meta.Put(t.Context(), "\x00", "v")
	require.ErrorIs(t, err, metaetcd.ErrReservedKey)
}

// TestContexts: a request ends with its context, with the context's own error.
func TestContexts(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	meta := cluster.Client(t)
	over := serve(t, meta)
	put(t, meta, "k", "v")
	require.Equal(t, []string{"k=v"}, list(t, over))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	cluster.Coordinator.Cut()
	defer cluster.Coordinator.Heal()
	for name, kv := range map[string]clientv3.KV{"in process": meta, "over gRPC": over} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				ctx  context.Context
				want error
			}{{canceled, context.Canceled}, {within(t, 100*time.Millisecond), context.DeadlineExceeded}} {
				begin := time.Now()
				_, err := kv.Get(c.ctx, "k")
				require.ErrorIs(t, err, c.want)
				_, err = kv.Get(c.ctx, "", clientv3.WithPrefix())
				require.ErrorIs(t, err, c.want)
				_, err = kv.Put(c.ctx, "k", "w")
				require.ErrorIs(t, err, c.want)
				_, err = kv.Txn(c.ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "v")).Then(clientv3.OpDelete("k")).Commit()
				require.ErrorIs(t, err, c.want)
				require.Less(t, time.Since(begin), soon)
			}
			// The coordinator is not needed for what is known already.
			require.Equal(t, []string{"k=v"}, list(t, kv, clientv3.WithSerializable()))
		})
	}
}
