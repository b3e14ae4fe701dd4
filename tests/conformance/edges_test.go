package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// soon bounds what must not hang.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), opTimeout)
	t.Cleanup(cancel)
	return ctx
}

func TestFreshClusterCountsLikeEtcd(t *testing.T) {
	cli := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t)
	rev, err := cli.Revision(soon(t))
	require.NoError(t, err)
	require.EqualValues(t, 1, rev)
	empty, err := cli.Get(soon(t), "k")
	require.NoError(t, err)
	require.EqualValues(t, 1, empty.Header.Revision)
	put, err := cli.Put(soon(t), "k", "v")
	require.NoError(t, err)
	require.EqualValues(t, 2, put.Header.Revision)
}

func TestCompactionBounds(t *testing.T) {
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	cli, other := cluster.Client(t), cluster.Client(t)
	var revs []int64
	for range 5 {
		put, err := cli.Put(soon(t), "k", "v")
		require.NoError(t, err)
		revs = append(revs, put.Header.Revision)
	}
	last := revs[len(revs)-1]
	_, err := cli.Compact(soon(t), last+1)
	require.Equal(t, rpctypes.ErrFutureRev, err)
	_, err = cli.Compact(soon(t), revs[2])
	require.NoError(t, err)
	for _, c := range []*metaetcd.Client{cli, other} {
		for _, rev := range []int64{1, revs[0], revs[1]} {
			_, err = c.Get(soon(t), "k", clientv3.WithRev(rev))
			require.Equal(t, rpctypes.ErrCompacted, err, "read at %d, compacted at %d", rev, revs[2])
			_, err = c.Compact(soon(t), rev)
			require.Equal(t, rpctypes.ErrCompacted, err)
		}
		got, err := c.Get(soon(t), "k", clientv3.WithRev(revs[2]))
		require.NoError(t, err)
		require.EqualValues(t, 3, got.Kvs[0].Version)
	}
	_, err = cli.Compact(soon(t), revs[2])
	require.Equal(t, rpctypes.ErrCompacted, err)
	_, err = cli.Get(soon(t), "k", clientv3.WithRev(last+1))
	require.Equal(t, rpctypes.ErrFutureRev, err)
}

// TestRefusedTransactionWritesNothing: a revision that a read names is checked before anything lands.
func TestRefusedTransactionWritesNothing(t *testing.T) {
	cli := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t)
	put, err := cli.Put(soon(t), "k", "1")
	require.NoError(t, err)
	again, err := cli.Put(soon(t), "k", "2")
	require.NoError(t, err)
	_, err = cli.Compact(soon(t), again.Header.Revision)
	require.NoError(t, err)

	for rev, want := range map[int64]error{
		put.Header.Revision:         rpctypes.ErrCompacted,
		-1:                          rpctypes.ErrCompacted,
		again.Header.Revision + 1:   rpctypes.ErrFutureRev, // what would be the transaction's own
		again.Header.Revision + 100: rpctypes.ErrFutureRev,
	} {
		write, read := clientv3.OpPut("k", "3"), clientv3.OpGet("k", clientv3.WithRev(rev))
		for _, ops := range [][]clientv3.Op{
			{write, read},
			{read, write},
			{write, clientv3.OpTxn(nil, []clientv3.Op{read}, nil)},
			{read, clientv3.OpTxn(nil, []clientv3.Op{write}, nil)},
		} {
			_, err := cli.Txn(soon(t)).Then(ops...).Commit()
			require.Equal(t, want, err, "a read at %d", rev)
		}
	}
	got, err := cli.Get(soon(t), "k")
	require.NoError(t, err)
	require.Equal(t, "2", string(got.Kvs[0].Value))
	require.Equal(t, again.Header.Revision, got.Kvs[0].ModRevision)
}

// TestNegativeRevisions: they are the present for a read by itself. In a transaction, -1 is the present until something is
// compacted, and others never are.
func TestNegativeRevisions(t *testing.T) {
	plain, meta := plainStore(t), metaStore(t, metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t))
	check := func(compacted bool) {
		t.Helper()
		for _, rev := range []int64{-1, -2} {
			read := clientv3.OpGet("a", clientv3.WithRange("c"), clientv3.WithRev(rev))
			reads, writes := []clientv3.Op{read}, []clientv3.Op{clientv3.OpPut(keys[0], "now"), read}
			across := []clientv3.Op{read, clientv3.OpPut(keys[0], "x"), clientv3.OpPut(keys[1], "y"), clientv3.OpPut(keys[2], "z"), read}
			for _, ops := range [][]clientv3.Op{reads, writes, across, {clientv3.OpTxn(nil, writes, nil)}} {
				want, wantErr := plain.kv.Txn(soon(t)).Then(ops...).Commit()
				got, gotErr := meta.kv.Txn(soon(t)).Then(ops...).Commit()
				require.Truef(t, sameError(wantErr, gotErr), "plain: %v\nmeta:  %v", wantErr, gotErr)
				require.Equal(t, compacted || rev < -1, wantErr != nil)
				if wantErr == nil {
					require.Equal(t, shown(want.Responses), shown(got.Responses))
				}
			}
			for _, one := range []any{
				&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Revision: rev},
				&pb.RangeRequest{Key: []byte(keys[0]), Revision: rev},
				&pb.RangeRequest{Key: []byte(keys[0]), Revision: rev, Serializable: true},
				streamed{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Revision: rev}},
			} {
				want, err := plain.do(soon(t), one, true)
				require.NoError(t, err)
				got, err := meta.do(soon(t), one, true)
				require.NoError(t, err)
				require.Equal(t, shownRange(want.(*pb.RangeResponse)), shownRange(got.(*pb.RangeResponse)))
			}
		}
	}
	for _, k := range keys[:5] {
		_, err := plain.kv.Put(soon(t), k, "first")
		require.NoError(t, err)
		_, err = meta.kv.Put(soon(t), k, "first")
		require.NoError(t, err)
	}
	check(false)
	for _, kv := range []clientv3.KV{plain.kv, meta.kv} {
		_, err := kv.Compact(soon(t), 3)
		require.NoError(t, err)
	}
	check(true)
}

// shown is what the reads of a transaction show, without revisions.
func shown(rs []*pb.ResponseOp) (all [][]string) {
	for _, r := range rs {
		if rr := r.GetResponseRange(); rr != nil {
			all = append(all, shownRange(rr))
		}
		all = append(all, shown(r.GetResponseTxn().GetResponses())...)
	}
	return all
}

func shownRange(r *pb.RangeResponse) (all []string) {
	for _, kv := range r.Kvs {
		all = append(all, fmt.Sprintf("%s=%s, version %d", kv.Key, kv.Value, kv.Version))
	}
	return all
}

func TestWatchFromTheFuture(t *testing.T) {
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	cli, other := cluster.Client(t), cluster.Client(t)
	rev, err := cli.Revision(soon(t))
	require.NoError(t, err)
	from := rev + 10
	watch := other.Watch(soon(t), "", clientv3.WithPrefix(), clientv3.WithRev(from))
	var want []int64
	for range 15 {
		put, err := cli.Put(soon(t), "k", "v")
		require.NoError(t, err)
		if put.Header.Revision >= from {
			want = append(want, put.Header.Revision)
		}
	}
	for len(want) > 0 {
		resp, open := <-watch
		require.True(t, open)
		require.NoError(t, resp.Err())
		for _, ev := range resp.Events {
			require.Equal(t, want[0], ev.Kv.ModRevision)
			want = want[1:]
		}
	}
}

func TestReservedKeysAreRefused(t *testing.T) {
	cli := metaetcdtest.New(t, 1, metaetcdtest.WithUnsafeNoFsync()).Client(t)
	_, err := cli.Put(soon(t), "\x00k", "v")
	require.ErrorContains(t, err, "metaetcd: ")
	all, err := cli.Get(soon(t), "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, all.Kvs, "internal records show up in a range")
	require.Zero(t, all.Count)
}

// TestWhatSpansMembersHappensAtOnce: a transaction and a range delete over all members have one revision each, and a watch shows them
// whole: the puts in the order of the operations, the deletes in the order of the keys.
func TestWhatSpansMembersHappensAtOnce(t *testing.T) {
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	cli, other := cluster.Client(t), cluster.Client(t)
	watch := other.Watch(soon(t), "", clientv3.WithPrefix(), clientv3.WithRev(2))
	backwards := slices.Sorted(slices.Values(keys))
	slices.Reverse(backwards)
	var puts []clientv3.Op
	for _, k := range backwards {
		puts = append(puts, clientv3.OpPut(k, "v"))
	}
	put, err := cli.Txn(soon(t)).Then(puts...).Commit()
	require.NoError(t, err)
	requireAtOnce(t, <-watch, put.Header.Revision, backwards)
	for _, m := range cluster.Members {
		all, err := m.DirectClient(t).Get(soon(t), "\x01", clientv3.WithFromKey(), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.NotZero(t, all.Count, "%s has none of the keys: this test shows less than it should", m.Name())
	}
	del, err := cli.Delete(soon(t), "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.EqualValues(t, len(keys), del.Deleted)
	requireAtOnce(t, <-watch, del.Header.Revision, slices.Sorted(slices.Values(keys)))
	for rev, n := range map[int64]int{put.Header.Revision - 1: 0, put.Header.Revision: len(keys), del.Header.Revision - 1: len(keys), del.Header.Revision: 0} {
		all, err := other.Get(soon(t), "", clientv3.WithPrefix(), clientv3.WithRev(rev))
		require.NoError(t, err)
		require.Len(t, all.Kvs, n, "at %d", rev)
	}
}

func requireAtOnce(t *testing.T, resp clientv3.WatchResponse, rev int64, want []string) {
	t.Helper()
	require.NoError(t, resp.Err())
	var got []string
	for _, ev := range resp.Events {
		require.Equal(t, rev, ev.Kv.ModRevision)
		got = append(got, string(ev.Kv.Key))
	}
	require.Equal(t, want, got)
}

// TestRefusedTransactionOverMembersWritesNothing: what a member has to say against its part counts before any part is applied.
func TestRefusedTransactionOverMembersWritesNothing(t *testing.T) {
	cli := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t)
	for i := range keys {
		var ops []clientv3.Op
		for j, k := range keys {
			op := clientv3.OpPut(k, "v")
			if i == j {
				op = clientv3.OpPut(k, "v", clientv3.WithLease(4711))
			}
			ops = append(ops, op)
		}
		_, err := cli.Txn(soon(t)).Then(ops...).Commit()
		require.Equal(t, rpctypes.ErrLeaseNotFound, err)
		ops[i] = clientv3.OpPut(keys[i], "", clientv3.WithIgnoreValue())
		_, err = cli.Txn(soon(t)).Then(ops...).Commit()
		require.Equal(t, rpctypes.ErrKeyNotFound, err)
	}
	all, err := cli.Get(soon(t), "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, all.Kvs)
	for _, k := range keys { // no lock was left behind
		_, err := cli.Put(soon(t), k, "v")
		require.NoError(t, err)
	}
}

// TestRequestSizes: of one put, and of a transaction whose parts would be small enough.
// TestLongKeys: a key may have as many bytes as etcd takes in a request, though a write has to name it more than once.
func TestLongKeys(t *testing.T) {
	plain := plainStore(t)
	for members := range 2 {
		cli := metaetcdtest.New(t, members+1, metaetcdtest.WithUnsafeNoFsync()).Client(t)
		for _, size := range []int{700 << 10, 780 << 10, 1400 << 10, 1700 << 10} {
			key := strings.Repeat("k", size)
			for _, op := range []clientv3.Op{clientv3.OpPut(key, "v"), clientv3.OpGet(key), clientv3.OpPut(key, "w"), clientv3.OpDelete(key)} {
				_, want := plain.kv.Do(soon(t), op)
				if _, got := cli.Do(soon(t), op); op.IsDelete() && want != nil {
					require.NoError(t, got, "a delete that finds nothing is a read, of any size")
				} else {
					require.True(t, sameError(want, got), "%d bytes on %d members\nplain: %v\nmeta:  %v", size, members+1, want, got)
				}
			}
		}
	}
}

func TestRequestSizes(t *testing.T) {
	plain := plainStore(t)
	for members := range 3 {
		cli := metaetcdtest.New(t, members+1, metaetcdtest.WithUnsafeNoFsync()).Client(t)
		for _, size := range []int{1 << 20, 3 << 19, 1700 << 10} {
			whole, part := strings.Repeat("v", size), strings.Repeat("v", size/len(keys))
			var parts []clientv3.Op
			for _, k := range keys {
				parts = append(parts, clientv3.OpPut(k, part))
			}
			for name, ops := range map[string][]clientv3.Op{"one put": {clientv3.OpPut("k", whole)}, "many puts": parts} {
				_, want := plain.kv.Txn(soon(t)).Then(ops...).Commit()
				_, got := cli.Txn(soon(t)).Then(ops...).Commit()
				require.True(t, sameError(want, got), "%s of %d bytes on %d members\nplain: %v\nmeta:  %v", name, size, members+1, want, got)
			}
		}
		for _, k := range append(slices.Clone(keys), "k") {
			_, err := cli.Put(soon(t), k, "small")
			require.NoError(t, err, "a refused request left something behind")
		}
	}
}
