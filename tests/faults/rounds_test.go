package faults

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestPutThatFollowsADeleteOutlivesCompaction: an etcd that is compacted at a revision that deletes and puts a key loses the key, and
// its process ends at the next read. A transaction that does both is not in one revision of its member.
func TestPutThatFollowsADeleteOutlivesCompaction(t *testing.T) {
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	for name, shape := range map[string]func(k string) []clientv3.Op{
		"flat": func(k string) []clientv3.Op {
			return []clientv3.Op{clientv3.OpDelete(k, clientv3.WithFromKey()), clientv3.OpPut(k, "v1")}
		},
		"nested": func(k string) []clientv3.Op {
			return []clientv3.Op{nested(clientv3.OpDelete(k, clientv3.WithFromKey())), nested(clientv3.OpPut(k, "v1"))}
		},
		"everything goes": func(k string) []clientv3.Op {
			return []clientv3.Op{clientv3.OpDelete("", clientv3.WithPrefix()), clientv3.OpPut(k, "v1")}
		},
	} {
		for _, members := range []int{1, 2} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cluster := metaetcdtest.New(t, members, metaetcdtest.WithUnsafeNoFsync())
				cli := cluster.Client(t)
				const k, other = "k", "a"
				put := func(key string) int64 {
					resp, err := cli.Put(patient(t), key, "v0")
					require.NoError(t, err)
					return resp.Header.Revision
				}
				put(k)
				put("l")
				before := put(other)
				txn, err := cli.Txn(patient(t)).Then(shape(k)...).Commit()
				require.NoError(t, err)
				_, err = cli.Compact(patient(t), put(other), clientv3.WithCompactPhysical())
				require.NoError(t, err)
				for _, m := range cluster.Members {
					m.Stop()
					m.Start()
				}
				got, err := cli.Get(patient(t), k)
				require.NoError(t, err)
				require.Len(t, got.Kvs, 1, "the key is gone")
				kv := got.Kvs[0]
				require.Equal(t, "v1", string(kv.Value))
				require.Greater(t, txn.Header.Revision, before)
				require.Equal(t, [3]int64{txn.Header.Revision, txn.Header.Revision, 1}, [3]int64{kv.CreateRevision, kv.ModRevision, kv.Version})
			})
		}
	}
}

// TestAMemberIsNotCompactedWhereItWouldLoseAKey: it may hold a revision that deletes and puts a key, though none are written any more.
func TestAMemberIsNotCompactedWhereItWouldLoseAKey(t *testing.T) {
	cluster := metaetcdtest.New(t, 2, metaetcdtest.WithUnsafeNoFsync())
	cli := cluster.Client(t)
	var keys [2]string // on each member
	for i := byte('a'); keys[0] == "" || keys[1] == ""; i++ {
		k := string(i)
		_, err := cli.Put(patient(t), k, "v0")
		require.NoError(t, err)
		for m := range keys {
			resp, err := cluster.Members[m].DirectClient(t).Get(patient(t), k, clientv3.WithCountOnly())
			require.NoError(t, err)
			if resp.Count > 0 {
				keys[m] = k
			}
		}
	}
	last, err := cli.Put(patient(t), keys[0], "v0")
	require.NoError(t, err)
	require.NoError(t, cli.Close())

	// As it was written once: nobody is there who sees it now.
	direct, stamp := cluster.Members[0].DirectClient(t), last.Header.Revision
	fence, err := direct.Get(patient(t), record.KeyFence)
	require.NoError(t, err)
	epoch, _, err := record.ParsePair(fence.Kvs[0].Value)
	require.NoError(t, err)
	forged, err := direct.Txn(patient(t)).Then(
		clientv3.OpDelete(keys[0], clientv3.WithFromKey()),
		clientv3.OpPut(keys[0], string(record.Header{Stamp: stamp, Create: stamp}.Value([]byte("v1")))),
		clientv3.OpPut(record.KeyFence, string(record.Pair(epoch, stamp))),
		clientv3.OpPut(record.KeyManifest, string(manifest.Encode(manifest.Entry{Stamp: stamp, Kind: manifest.Exclusive, Names: []manifest.Name{
			{Touch: manifest.Deleted, Key: []byte(keys[0]), End: []byte{0}}, {Touch: manifest.Put, Key: []byte(keys[0])},
		}}))),
	).Commit()
	require.NoError(t, err)

	cli = cluster.Client(t)
	put, err := cli.Put(patient(t), keys[1], "v1")
	require.NoError(t, err)
	now, err := direct.Get(patient(t), "k")
	require.NoError(t, err)
	require.Equal(t, forged.Header.Revision, now.Header.Revision, "the member is where it would be compacted")
	_, err = cli.Compact(patient(t), put.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	cluster.Members[0].Stop()
	cluster.Members[0].Start()
	got, err := cli.Get(patient(t), keys[0])
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1, "the key is gone")
	require.Equal(t, "v1", string(got.Kvs[0].Value))
}

// TestDeathBetweenRounds: a transaction that puts and deletes a key is on its member in parts. Its writer goes when the first has
// landed: nobody sees it alone, and others bring the rest.
func TestDeathBetweenRounds(t *testing.T) {
	b := newBench(t, 2)
	writer, other := b.processes[0], b.processes[1].meta
	k := b.groups[0][0] + "k"
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	before, err := other.Put(patient(t), k, "old")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	watch := other.Watch(ctx, k, clientv3.WithPrevKV(), clientv3.WithRev(before.Header.Revision+1))

	writer.wire.blocked.Store(int32(part))
	txn, err := writer.meta.Txn(patient(t)).Then(
		nested(clientv3.OpPut(k, "new")), nested(clientv3.OpDelete(k)), clientv3.OpDelete(k, clientv3.WithFromKey()),
	).Commit()
	require.NoError(t, err)
	got, err := other.Get(patient(t), k)
	require.NoError(t, err)
	require.Empty(t, got.Kvs)
	require.GreaterOrEqual(t, got.Header.Revision, txn.Header.Revision)
	past, err := other.Get(patient(t), k, clientv3.WithRev(txn.Header.Revision-1))
	require.NoError(t, err)
	require.Equal(t, "old", string(past.Kvs[0].Value))

	resp := <-watch
	for resp.IsProgressNotify() { // others of the stream have asked for it
		resp = <-watch
	}
	require.NoError(t, resp.Err())
	evs := resp.Events
	require.Len(t, evs, 2, "all of a revision comes at once")
	for i, kind := range []string{"PUT", "DELETE"} {
		require.Equal(t, kind, evs[i].Type.String())
		require.Equal(t, txn.Header.Revision, evs[i].Kv.ModRevision)
		require.Equal(t, "old", string(evs[i].PrevKv.Value), "what was there before the transaction")
	}
}
