package client

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// moved counts what etcd's KV services answer, in bytes.
type moved struct{ bytes atomic.Int64 }

type kvCall struct{}

func (m *moved) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if strings.HasPrefix(info.FullMethodName, "/etcdserverpb.KV/") {
		ctx = context.WithValue(ctx, kvCall{}, true)
	}
	return ctx
}

func (m *moved) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok && ctx.Value(kvCall{}) != nil {
		m.bytes.Add(int64(in.WireLength))
	}
}

func (m *moved) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (m *moved) HandleConn(context.Context, stats.ConnStats)                       {}

// by is how many bytes f moves.
func (m *moved) by(f func()) int64 {
	before := m.bytes.Load()
	f()
	return m.bytes.Load() - before
}

// counted opens the meta cluster as a process whose members' answers are counted.
func counted(t *testing.T, cluster *metaetcdtest.Cluster) (*metaetcd.Client, *moved) {
	t.Helper()
	m := &moved{}
	cfg := cluster.Config()
	for i, node := range cluster.Members {
		cli, err := clientv3.New(clientv3.Config{Endpoints: node.Endpoints(), DialOptions: []grpc.DialOption{grpc.WithStatsHandler(m)}})
		require.NoError(t, err)
		t.Cleanup(func() { _ = cli.Close() })
		cfg.Members[i].Client = cli
	}
	return open(t, cfg), m
}

// TestReadsThatNeedNoValues: values that a request does not ask for stay where they are, but for those whose revisions a process
// does not know yet.
func TestReadsThatNeedNoValues(t *testing.T) {
	t.Parallel()
	const keys, size = 320, 10 << 10
	const all, few = keys * size, keys * size / 20
	cluster := newCluster(t, 3)
	writer := cluster.Client(t)
	lease, err := writer.Grant(within(t, patience), 3600)
	require.NoError(t, err)
	var g errgroup.Group
	g.SetLimit(32)
	for i := range keys {
		g.Go(func() error {
			_, err := writer.Put(within(t, patience), fmt.Sprintf("k%03d", i*7%keys), strings.Repeat("v", size), clientv3.WithLease(lease.ID))
			return err
		})
	}
	require.NoError(t, g.Wait())
	mid := writer.ClosedRevision() - keys/2
	cli, m := counted(t, cluster)
	get := func(opts ...clientv3.OpOption) *clientv3.GetResponse {
		t.Helper()
		resp, err := cli.Get(within(t, patience), "k", append([]clientv3.OpOption{clientv3.WithPrefix()}, opts...)...)
		require.NoError(t, err)
		return resp
	}
	same := func(opts ...clientv3.OpOption) {
		t.Helper()
		want, err := writer.Get(within(t, patience), "k", append([]clientv3.OpOption{clientv3.WithPrefix()}, opts...)...)
		require.NoError(t, err)
		got := get(opts...)
		require.Equal(t, kinds(want.Kvs), kinds(got.Kvs))
		require.Equal(t, want.Count, got.Count)
		require.Equal(t, want.More, got.More)
	}
	cheap := func(name string, f func()) {
		t.Helper()
		n := m.by(f)
		t.Logf("%s: %d bytes", name, n)
		assert.Less(t, n, int64(few), name)
	}
	// What needs no revisions is cheap from the start.
	for name, opts := range map[string][]clientv3.OpOption{
		"count":                {clientv3.WithCountOnly()},
		"count of a page":      {clientv3.WithCountOnly(), clientv3.WithLimit(3)},
		"count of new keys":    {clientv3.WithCountOnly(), clientv3.WithMinModRev(mid)},
		"first key":            clientv3.WithFirstKey(),
		"last key":             clientv3.WithLastKey(),
		"last keys":            {clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(5)},
		"first keys, no value": {clientv3.WithKeysOnly(), clientv3.WithLimit(5)},
	} {
		cheap(name, func() { same(opts...) })
	}
	if learned := m.by(func() { same(clientv3.WithKeysOnly()) }); learned < all/2 {
		t.Fatalf("%d bytes: this process was to know nothing of the keys", learned)
	}
	for name, opts := range map[string][]clientv3.OpOption{
		"keys":                {clientv3.WithKeysOnly()},
		"page of keys":        {clientv3.WithKeysOnly(), clientv3.WithLimit(100)},
		"keys, backwards":     {clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
		"keys by age":         {clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend)},
		"new keys":            {clientv3.WithKeysOnly(), clientv3.WithMinCreateRev(mid)},
		"serializable":        {clientv3.WithKeysOnly(), clientv3.WithSerializable()},
		"first created":       clientv3.WithFirstCreate(),
		"last created":        clientv3.WithLastCreate(),
		"last created before": append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(mid)),
		"first modified":      clientv3.WithFirstRev(),
		"last modified":       clientv3.WithLastRev(),
		"the newest":          {clientv3.WithMinModRev(writer.ClosedRevision() - 3)},
	} {
		cheap(name, func() { same(opts...) })
	}
	cheap("stream of keys", func() {
		chunks, err := cli.GetStream(within(t, patience), "k", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		require.NoError(t, err)
		got, err := clientv3.GetStreamToGetResponse(chunks)
		require.NoError(t, err)
		require.Equal(t, kinds(get(clientv3.WithKeysOnly()).Kvs), kinds(got.Kvs))
	})
	cheap("keys of a lease", func() {
		left, err := cli.TimeToLive(within(t, patience), lease.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		require.Len(t, left.Keys, keys)
	})
	cheap("compares of ranges", func() {
		for _, cmp := range []clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision("k"), "=", 0), clientv3.Compare(clientv3.ModRevision("k"), "<", mid),
			clientv3.Compare(clientv3.Version("k"), ">", 1), clientv3.Compare(clientv3.LeaseValue("k"), "=", 0),
		} {
			resp, err := cli.Txn(within(t, patience)).If(cmp.WithPrefix()).Then(clientv3.OpPut("x", "v")).Else(clientv3.OpGet("k", clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
			require.NoError(t, err)
			require.False(t, resp.Succeeded)
			require.EqualValues(t, keys, resp.Responses[0].GetResponseRange().Count)
		}
	})
	// What others write afterwards is followed, whatever is known.
	for i := range 5 {
		put(t, writer, fmt.Sprintf("k%03d", i), "new")
		put(t, writer, fmt.Sprintf("kn%d", i), "new")
	}
	_, err = writer.Delete(within(t, patience), "k010")
	require.NoError(t, err)
	put(t, writer, "k010", "again")
	cheap("after changes", func() {
		same(clientv3.WithKeysOnly())
		same(clientv3.WithLastCreate()...)
		same(clientv3.WithFirstRev()...)
	})
}
