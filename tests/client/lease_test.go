package client

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func grant(t *testing.T, l clientv3.Lease, ttl int64) clientv3.LeaseID {
	t.Helper()
	resp, err := l.Grant(within(t, patience), ttl)
	require.NoError(t, err)
	require.GreaterOrEqual(t, resp.TTL, ttl)
	return resp.ID
}

// putLeased attaches a key.
func putLeased(t *testing.T, kv clientv3.KV, key string, id clientv3.LeaseID) {
	t.Helper()
	_, err := kv.Put(within(t, patience), key, "v", clientv3.WithLease(id))
	require.NoError(t, err)
}

// attached lists a lease's keys.
func attached(t *testing.T, l clientv3.Lease, id clientv3.LeaseID) []string {
	t.Helper()
	resp, err := l.TimeToLive(within(t, patience), id, clientv3.WithAttachedKeys())
	require.NoError(t, err)
	keys := []string{}
	for _, k := range resp.Keys {
		keys = append(keys, string(k))
	}
	return keys
}

func TestLeases(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	a, b := cluster.Client(t), cluster.Client(t)
	id := grant(t, a, 60)
	other := grant(t, a, 30)
	ctx := within(t, patience)

	all, err := b.Leases(ctx)
	require.NoError(t, err)
	require.Equal(t, []clientv3.LeaseStatus{{ID: other}, {ID: id}}, all.Leases, "the one that ends first comes first")
	left, err := b.TimeToLive(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, 60, left.GrantedTTL)
	require.InDelta(t, 60, left.TTL, 5)
	once, err := b.KeepAliveOnce(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, 60, once.TTL)

	keys := []string{keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k"), keyOn(t, cluster, 2, "k")}
	w := a.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	for i, k := range keys {
		putLeased(t, []clientv3.KV{a, b}[i%2], k, id)
	}
	take(t, w, 3)
	require.ElementsMatch(t, keys, attached(t, b, id))
	get, err := a.Get(ctx, keys[0])
	require.NoError(t, err)
	require.EqualValues(t, id, get.Kvs[0].Lease)

	// Re-attached, and detached.
	putLeased(t, a, keys[0], other)
	put(t, b, keys[1], "free")
	take(t, w, 2)
	require.Equal(t, []string{keys[2]}, attached(t, a, id))
	require.Equal(t, []string{keys[0]}, attached(t, b, other))

	revoked, err := b.Revoke(ctx, id)
	require.NoError(t, err)
	gone := take(t, w, 1)[0]
	require.Equal(t, clientv3.EventTypeDelete, gone.Type)
	require.Equal(t, keys[2], string(gone.Kv.Key))
	require.EqualValues(t, id, gone.PrevKv.Lease)
	require.GreaterOrEqual(t, revoked.Header.Revision, gone.Kv.ModRevision)

	_, err = a.Revoke(ctx, id)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	_, err = a.Put(ctx, keys[0], "", clientv3.WithLease(id))
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	_, err = a.KeepAliveOnce(ctx, id)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	left, err = a.TimeToLive(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, -1, left.TTL)
	require.Equal(t, slices.Sorted(slices.Values([]string{keys[0] + "=v", keys[1] + "=free"})), list(t, a))
	_, err = a.Grant(ctx, math.MaxInt64)
	require.Equal(t, rpctypes.ErrLeaseTTLTooLarge, err)
}

// TestChosenLeases: ids that the caller chooses, as the service takes them.
func TestChosenLeases(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	srv := leaseService(t, cli)
	ctx := within(t, patience)
	for _, id := range []int64{7, -7, math.MinInt64, math.MaxInt64} {
		resp, err := srv.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 60})
		require.NoError(t, err)
		require.Equal(t, id, resp.ID)
		_, err = srv.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 60})
		require.Equal(t, rpctypes.ErrLeaseExist, rpctypes.Error(err))
		key := fmt.Sprint("k", id)
		putLeased(t, cli, key, clientv3.LeaseID(id))
		_, err = cli.Revoke(ctx, clientv3.LeaseID(id))
		require.NoError(t, err)
		_, err = srv.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 60})
		require.NoError(t, err)
		require.Empty(t, attached(t, cli, clientv3.LeaseID(id)))
		require.Empty(t, list(t, cli))
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	a, b := cluster.Client(t), cluster.Client(t)
	ctx := within(t, patience)
	const ttl = 5 // seconds: all keys are there before
	id := grant(t, a, ttl)
	kept := grant(t, b, ttl)
	alive, err := b.KeepAlive(ctx, kept)
	require.NoError(t, err)
	var keys []string
	w := b.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	for i := range 3 {
		keys = append(keys, keyOn(t, cluster, i, "k"))
		putLeased(t, a, keys[i], id)
	}
	putLeased(t, a, "other", kept)
	take(t, w, 3)
	var gone []string
	for _, ev := range take(t, w, 3) {
		require.Equal(t, clientv3.EventTypeDelete, ev.Type)
		require.EqualValues(t, id, ev.PrevKv.Lease)
		gone = append(gone, string(ev.Kv.Key))
	}
	require.ElementsMatch(t, keys, gone)
	require.Equal(t, []string{"other=v"}, list(t, a))
	for range 3 {
		select {
		case resp := <-alive:
			require.NotNil(t, resp)
		case <-time.After(patience):
			require.FailNow(t, "no keep-alive")
		}
	}
	require.Equal(t, []string{"other"}, attached(t, a, kept))
}

// leaseService is the client's lease service over a connection.
func leaseService(t *testing.T, cli *metaetcd.Client) pb.LeaseClient {
	t.Helper()
	return pb.NewLeaseClient(serve(t, cli).ActiveConnection())
}

// records reads the names of the reserved records on the members that begin with one of the prefixes.
func records(t *testing.T, cluster *metaetcdtest.Cluster, prefixes ...string) (names []string) {
	t.Helper()
	for _, m := range cluster.Members {
		cli := m.DirectClient(t)
		for _, p := range prefixes {
			resp, err := cli.Get(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithKeysOnly())
			require.NoError(t, err)
			for _, kv := range resp.Kvs {
				names = append(names, string(kv.Key))
			}
		}
		require.NoError(t, cli.Close())
	}
	return names
}

const (
	leaseRecords = "\x00lease/"
	leaseEntries = "\x00~attached/"
)

// TestLeasedKeysInRangeDeletes: entries of keys that range deletes removed do not stay.
func TestLeasedKeysInRangeDeletes(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2, metaetcdtest.WithSharding(metaetcd.Sharding{Slots: slots, Segments: 1}))
	cli := cluster.Client(t)
	id := grant(t, cli, 60)
	for i := range 5 {
		putLeased(t, cli, fmt.Sprint("a/", i), id)
	}
	putLeased(t, cli, "b/", id)
	_, err := cli.Delete(within(t, patience), "a/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Equal(t, []string{"b/"}, attached(t, cli, id))
	require.Eventually(t, func() bool { return len(records(t, cluster, leaseEntries)) == 1 }, patience, tick)
	_, err = cli.Revoke(within(t, patience), id)
	require.NoError(t, err)
	require.Empty(t, records(t, cluster, leaseEntries, leaseRecords))
}

// TestHeldLease: a lease that a prepared transaction holds on some member does not die before it is let go.
func TestHeldLease(t *testing.T) {
	t.Parallel()
	var sent requests
	cluster := newCluster(t, 2, sent.seen())
	cli := cluster.Client(t)
	id := grant(t, cli, 60)
	putLeased(t, cli, "k", id)
	direct := cluster.Members[1].DirectClient(t)
	held := string(record.HeldKey(int64(id), []byte("some transaction")))
	note := clientv3.OpPut(record.KeyManifest, string(manifest.Encode()))
	_, err := direct.Txn(within(t, patience)).Then(clientv3.OpPut(held, ""), note).Commit()
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := cli.Revoke(t.Context(), id)
		done <- err
	}()
	for range 10 { // it is asked again and again
		happened(t, sent.next(cluster.Members[1]), "nobody asks the member that holds the lease")
	}
	require.Empty(t, done, "the lease ended")
	require.Equal(t, []string{"k=v"}, list(t, cli))
	_, err = direct.Txn(within(t, patience)).Then(clientv3.OpDelete(held), note).Commit()
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Empty(t, list(t, cli))
}

// TestLeftoverRecords: records that a process left behind when it died in the middle of a grant, whose timer has run out since, go.
func TestLeftoverRecords(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	for i, rec := range []record.LeaseRecord{{Grant: 11, TTL: 60}, {Grant: 12, TTL: 60, Dead: true}} {
		_, err := cluster.Members[i].DirectClient(t).Put(within(t, patience), string(record.LeaseKey(int64(7+i))), string(rec.Encode()))
		require.NoError(t, err)
	}
	_, err := cli.Put(within(t, patience), "k", "v", clientv3.WithLease(8))
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	srv := leaseService(t, cli)
	_, err = srv.LeaseGrant(within(t, patience), &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	require.NoError(t, err, "what is left of an old lease is not in the way of a new one")
	require.Equal(t, []string{string(record.LeaseKey(7)), string(record.LeaseKey(7))}, records(t, cluster, leaseRecords))

	_, err = cluster.Members[1].DirectClient(t).Put(within(t, patience), string(record.LeaseKey(9)), string(record.LeaseRecord{Grant: 13, TTL: 60}.Encode()))
	require.NoError(t, err)
	cluster.Client(t) // a process that starts looks for them
	require.Eventually(t, func() bool { return len(records(t, cluster, leaseRecords)) == 2 }, patience, tick)
}

// killOn marks a lease dead on one member, as a process does that dies in the middle of reaping it.
func killOn(t *testing.T, cluster *metaetcdtest.Cluster, member int, id clientv3.LeaseID) {
	t.Helper()
	cli := cluster.Members[member].DirectClient(t)
	key := string(record.LeaseKey(int64(id)))
	resp, err := cli.Get(within(t, patience), key)
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	rec, err := record.ParseLease(resp.Kvs[0].Value)
	require.NoError(t, err)
	rec.Dead = true
	_, err = cli.Put(within(t, patience), key, string(rec.Encode()))
	require.NoError(t, err)
}

// TestKeysDieWithTheirLease: once a lease has died, a put that keeps it finds its key gone, as in etcd, and does not save the key from those
// who delete it: on one member, with others, and with a range.
func TestKeysDieWithTheirLease(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	k0, k1 := keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k")
	keep := clientv3.OpPut(k0, "kept", clientv3.WithIgnoreLease())
	for name, write := range map[string]func() error{
		"alone": func() error {
			_, err := cli.Do(within(t, patience), keep)
			return err
		},
		"with a key of another member": func() error {
			_, err := cli.Txn(within(t, patience)).Then(keep, clientv3.OpPut(k1, "new")).Commit()
			return err
		},
		"beside a range": func() error {
			_, err := cli.Txn(within(t, patience)).Then(keep, clientv3.OpDelete("x", clientv3.WithPrefix())).Commit()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := grant(t, cli, 3600)
			putLeased(t, cli, k0, id)
			putLeased(t, cli, k1, id)
			require.NoError(t, write())
			require.Contains(t, list(t, cli), k0+"=kept")
			putLeased(t, cli, k1, id)
			killOn(t, cluster, 0, id)
			require.Equal(t, rpctypes.ErrKeyNotFound, write())
			require.Empty(t, list(t, cli))
			require.Empty(t, records(t, cluster, leaseRecords, leaseEntries, "\x00~held/"))
		})
	}
}

// TestNoLeaseMeansNoKeys: a transaction across members that names a lease which has died is answered when its keys are gone, whether it
// would attach a key to it or not.
func TestNoLeaseMeansNoKeys(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	k0, k1 := keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k")
	for name, tc := range map[string]struct {
		compares []clientv3.Cmp
		want     error
	}{
		"it would":                {nil, rpctypes.ErrLeaseNotFound},
		"it would if the key was": {[]clientv3.Cmp{clientv3.Compare(clientv3.Value(k0), "=", "v")}, nil},
		"it would not":            {[]clientv3.Cmp{clientv3.Compare(clientv3.Value(k0), "=", "other")}, nil},
	} {
		id := grant(t, cli, 3600)
		putLeased(t, cli, k0, id)
		putLeased(t, cli, k1, id)
		killOn(t, cluster, 0, id)
		attach := clientv3.OpPut(k0, "", clientv3.WithLease(id))
		_, err := cli.Txn(within(t, patience)).If(tc.compares...).Then(attach, clientv3.OpPut(k1, "")).Commit()
		require.Equal(t, tc.want, err, name)
		require.Empty(t, list(t, cli), name)
	}
}

// TestMinimalTTL: a TTL that is too short becomes what a plain etcd makes of it.
func TestMinimalTTL(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	plain := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync()).DirectClient(t)
	for _, ttl := range []int64{-5, 0, 1, 2, 3} {
		want, err := plain.Grant(within(t, patience), ttl)
		require.NoError(t, err)
		got, err := cluster.Client(t).Grant(within(t, patience), ttl)
		require.NoError(t, err)
		require.Equal(t, want.TTL, got.TTL, "%d", ttl)
	}
}

// TestLeaseOfABranch: only the branch that runs needs its leases.
func TestLeaseOfABranch(t *testing.T) {
	t.Parallel()
	cli := newCluster(t, 2).Client(t)
	unknown := clientv3.OpPut("k", "v", clientv3.WithLease(4711))
	ctx := within(t, patience)
	txn := func(version int64) (*clientv3.TxnResponse, error) {
		return cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), "=", version)).Then(unknown).Else(clientv3.OpPut("k", "other")).Commit()
	}
	_, err := txn(0)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
	resp, err := txn(5)
	require.NoError(t, err)
	require.False(t, resp.Succeeded)
	require.Equal(t, []string{"k=other"}, list(t, cli))
	_, err = txn(1)
	require.Equal(t, rpctypes.ErrLeaseNotFound, err)
}

// TestReadBehindACompaction: another process compacts right up to revisions of a member that hold no stamp, and that this one
// has not seen yet. What may be read can be read.
func TestReadBehindACompaction(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	a, b := cluster.Client(t), cluster.Client(t)
	srv := leaseService(t, a)
	for i := range 40 {
		rev := put(t, a, "k", fmt.Sprint(i))
		for range 3 {
			_, err := srv.LeaseGrant(within(t, patience), &pb.LeaseGrantRequest{TTL: 60})
			require.NoError(t, err)
		}
		_, err := a.Compact(within(t, patience), rev)
		require.NoError(t, err)
		_, err = b.Get(within(t, patience), "", clientv3.WithPrefix(), clientv3.WithRev(rev))
		require.NoError(t, err)
	}
}
