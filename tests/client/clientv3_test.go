package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// TestNamespace: the wrapper changes the events and key-values that it gets in place. Nobody else may see that.
func TestNamespace(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	meta := cluster.Client(t)
	cli := installed(t, cluster, meta)
	kv := namespace.NewKV(cli.KV, "ns/")
	const n = 50

	watch := func(w clientv3.Watcher, prefix string, rev int64) clientv3.WatchChan {
		return w.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(rev))
	}
	// Live, one installed client and the meta client itself, both with and without the wrapper.
	inside := []clientv3.WatchChan{watch(namespace.NewWatcher(cli.Watcher, "ns/"), "k", 0), watch(namespace.NewWatcher(meta, "ns/"), "k", 0)}
	outside := []clientv3.WatchChan{watch(cli.Watcher, "ns/k", 0), watch(meta, "ns/k", 0), watch(meta, "", 0)}

	for i := range n {
		put(t, kv, fmt.Sprint("k", i%7), fmt.Sprint(i))
	}
	_, err := kv.Delete(within(t, patience), "k0")
	require.NoError(t, err)

	check := func(w clientv3.WatchChan, prefix string) {
		t.Helper()
		for i, ev := range take(t, w, n+1) {
			key := prefix + fmt.Sprint("k", i%7)
			if i == n {
				key = prefix + "k0"
				require.Equal(t, clientv3.EventTypeDelete, ev.Type)
			} else {
				require.Equal(t, fmt.Sprint(i), string(ev.Kv.Value))
			}
			require.EqualValues(t, 2+i, ev.Kv.ModRevision)
			require.Equal(t, key, string(ev.Kv.Key))
			if i >= 7 {
				require.Equal(t, key, string(ev.PrevKv.Key))
			}
		}
	}
	// History as well, and before the live ones were read.
	check(watch(namespace.NewWatcher(meta, "ns/"), "k", 2), "")
	for _, w := range inside {
		check(w, "")
	}
	for _, w := range append(outside, watch(meta, "ns/", 2)) {
		check(w, "ns/")
	}

	for range 2 {
		require.Equal(t, "k1=43", list(t, kv)[0])
		require.Equal(t, "ns/k1=43", list(t, meta)[0])
	}
	resp, err := kv.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Value("k1"), "=", "43")).
		Then(clientv3.OpGet("k1"), clientv3.OpPut("k1", "x", clientv3.WithPrevKV())).Commit()
	require.NoError(t, err)
	require.True(t, resp.Succeeded)
	require.Equal(t, "k1", string(resp.Responses[0].GetResponseRange().Kvs[0].Key))
	require.Equal(t, "k1", string(resp.Responses[1].GetResponsePut().PrevKv.Key))
	require.Equal(t, "ns/k1=x", list(t, meta)[0])
}

// TestMirror copies a keyspace by clientv3's own list and watch.
func TestMirror(t *testing.T) {
	t.Parallel()
	const n = 30
	cluster := newCluster(t, 3)
	cli := installed(t, cluster, cluster.Client(t))
	for i := range n {
		put(t, cli, fmt.Sprintf("m/%02d", i), "base")
	}
	s := mirror.NewSyncer(cli, "m/", 0)
	copied := map[string]string{}
	bases, errs := s.SyncBase(within(t, patience))
	for resp := range bases {
		for _, kv := range resp.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	require.NoError(t, <-errs)
	require.Len(t, copied, n)

	updates := s.SyncUpdates(t.Context())
	for i := range n {
		key := fmt.Sprintf("m/%02d", i)
		if i%3 == 0 {
			_, err := cli.Delete(within(t, patience), key)
			require.NoError(t, err)
		} else {
			put(t, cli, key, "update")
		}
	}
	for _, ev := range take(t, updates, n) {
		if ev.Type == clientv3.EventTypeDelete {
			delete(copied, string(ev.Kv.Key))
		} else {
			copied[string(ev.Kv.Key)] = string(ev.Kv.Value)
		}
	}
	left := list(t, cli)
	require.Len(t, left, n-n/3)
	require.Len(t, copied, len(left))
	for _, kv := range left {
		key, value, _ := strings.Cut(kv, "=")
		require.Equal(t, value, copied[key])
	}
}

// TestOrdering: linearizable answers never go back, whoever of two processes gives them.
func TestOrdering(t *testing.T) {
	t.Parallel()
	const n = 40
	cluster := newCluster(t, 2)
	a, b := cluster.Client(t), cluster.Client(t)
	violation := func(op clientv3.Op, resp clientv3.OpResponse, prev int64) error {
		return fmt.Errorf("%s answered at %d after %d", op.KeyBytes(), resp.Get().Header.Revision, prev)
	}
	kv := ordering.NewKV(&alternating{[]clientv3.KV{a, b}, 0, a}, violation)
	for i := range n {
		key := fmt.Sprint("k", i%5)
		_, err := kv.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Value(key), "=", "none")).
			Then(clientv3.OpPut(key, "none")).Else(clientv3.OpPut(key, fmt.Sprint(i))).Commit()
		require.NoError(t, err)
		for range 2 {
			resp, err := kv.Get(within(t, patience), key)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), string(resp.Kvs[0].Value))
		}
	}
}

// alternating sends every other request to the other process. It is not safe for concurrent use.
type alternating struct {
	kvs  []clientv3.KV
	next int
	clientv3.KV
}

func (a *alternating) turn() clientv3.KV {
	a.next++
	return a.kvs[a.next%len(a.kvs)]
}

func (a *alternating) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return a.turn().Do(ctx, op)
}

func (a *alternating) Txn(ctx context.Context) clientv3.Txn { return a.turn().Txn(ctx) }

func TestDo(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := installed(t, cluster, cluster.Client(t))
	ctx := within(t, patience)
	do := func(op clientv3.Op) clientv3.OpResponse {
		t.Helper()
		resp, err := cli.Do(ctx, op)
		require.NoError(t, err)
		return resp
	}
	require.EqualValues(t, 2, do(clientv3.OpPut("k", "1")).Put().Header.Revision)
	txn := do(clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Version("k"), "=", 1)},
		[]clientv3.Op{
			clientv3.OpPut("k", "2"),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value("k"), "=", "1")}, nil, []clientv3.Op{clientv3.OpGet("other")}),
			clientv3.OpGet("k"),
		},
		[]clientv3.Op{clientv3.OpGet("k")},
	)).Txn()
	require.True(t, txn.Succeeded)
	require.EqualValues(t, 3, txn.Header.Revision)
	require.True(t, txn.Responses[1].GetResponseTxn().Succeeded, "compares see the state before the transaction")
	require.Equal(t, "2", string(txn.Responses[2].GetResponseRange().Kvs[0].Value))
	require.EqualValues(t, 1, do(clientv3.OpGet("k")).Get().Kvs[0].CreateRevision-1)
	require.EqualValues(t, 1, do(clientv3.OpDelete("k")).Del().Deleted)
	require.Zero(t, do(clientv3.OpDelete("k")).Del().Deleted)
	_, err := cli.Do(ctx, clientv3.OpGet(""))
	require.ErrorIs(t, err, rpctypes.ErrEmptyKey)
}

// TestQueue: a recipe of etcd's, by which everything put in by one process comes out at another, once and in order.
func TestQueue(t *testing.T) {
	t.Parallel()
	const n = 20
	cluster := newCluster(t, 3)
	in, out := installed(t, cluster, cluster.Client(t)), installed(t, cluster, cluster.Client(t))
	failed := make(chan error, 1)
	go func() {
		q := recipe.NewQueue(in, "queue")
		for i := range n {
			if err := q.Enqueue(fmt.Sprint(i)); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	q := recipe.NewQueue(out, "queue")
	for i := range n {
		got, err := q.Dequeue()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), got)
	}
	require.NoError(t, <-failed)
	require.Empty(t, list(t, out))
}

// TestKubernetes uses the interface that clientv3 offers to Kubernetes.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	cli := installed(t, cluster, cluster.Client(t))
	k := kubernetes.Client{Client: cli}
	ctx := within(t, patience)

	created, err := k.OptimisticPut(ctx, "/pods/a", []byte("1"), 0, kubernetes.PutOptions{})
	require.NoError(t, err)
	require.True(t, created.Succeeded)
	again, err := k.OptimisticPut(ctx, "/pods/a", []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	require.NoError(t, err)
	require.False(t, again.Succeeded)
	require.Equal(t, "1", string(again.KV.Value))
	require.Equal(t, created.Revision, again.KV.ModRevision)
	updated, err := k.OptimisticPut(ctx, "/pods/a", []byte("3"), created.Revision, kubernetes.PutOptions{})
	require.NoError(t, err)
	require.True(t, updated.Succeeded)
	require.Greater(t, updated.Revision, created.Revision)

	const n = 9
	for i := range n {
		_, err := k.OptimisticPut(ctx, fmt.Sprint("/pods/p", i), []byte("v"), 0, kubernetes.PutOptions{})
		require.NoError(t, err)
	}
	count, err := k.Count(ctx, "/pods/", kubernetes.CountOptions{})
	require.NoError(t, err)
	require.EqualValues(t, n+1, count)
	first, err := k.List(ctx, "/pods/", kubernetes.ListOptions{Limit: 4})
	require.NoError(t, err)
	_, err = k.OptimisticPut(ctx, "/pods/p8", []byte("v"), 0, kubernetes.PutOptions{})
	require.NoError(t, err)
	var keys []string
	for page := first; ; {
		require.EqualValues(t, n+1-len(keys), page.Count)
		for _, kv := range page.Kvs {
			keys = append(keys, string(kv.Key))
		}
		if len(page.Kvs) == int(page.Count) {
			break
		}
		next := kubernetes.ListOptions{Limit: 4, Revision: first.Revision, Continue: keys[len(keys)-1] + "\x00"}
		page, err = k.List(ctx, "/pods/", next)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"/pods/a", "/pods/p0", "/pods/p1", "/pods/p2", "/pods/p3", "/pods/p4", "/pods/p5", "/pods/p6", "/pods/p7", "/pods/p8"}, keys)

	kept, err := k.OptimisticDelete(ctx, "/pods/a", created.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
	require.NoError(t, err)
	require.False(t, kept.Succeeded)
	require.Equal(t, "3", string(kept.KV.Value))
	gone, err := k.OptimisticDelete(ctx, "/pods/a", updated.Revision, kubernetes.DeleteOptions{})
	require.NoError(t, err)
	require.True(t, gone.Succeeded)
	got, err := k.Get(ctx, "/pods/a", kubernetes.GetOptions{})
	require.NoError(t, err)
	require.Nil(t, got.KV)
	was, err := k.Get(ctx, "/pods/a", kubernetes.GetOptions{Revision: created.Revision})
	require.NoError(t, err)
	require.Equal(t, "1", string(was.KV.Value))
}
