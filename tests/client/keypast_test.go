package client

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// TestPastOfSingleKeys: what a process that was not there shows of single keys, by gets at every revision and by watches from everywhere, is
// what one that was there has seen: puts, deletes, range deletes, transactions across members, and such that put and delete one key.
func TestPastOfSingleKeys(t *testing.T) {
	t.Parallel()
	const keys, steps = 8, 250
	cluster := newCluster(t, 3)
	writers := []*metaetcd.Client{cluster.Client(t), cluster.Client(t)}
	base := put(t, writers[0], "begin", "")
	seen := writers[0].Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(base+1), clientv3.WithPrevKV())
	key := func() string { return fmt.Sprint("k", rand.N(keys)) }
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	for i := range steps {
		value := fmt.Sprint("v", i)
		one, other := key(), key()
		ops := []clientv3.Op{clientv3.OpPut(one, value)}
		switch rand.N(8) {
		case 0, 1, 2:
		case 3:
			ops = []clientv3.Op{clientv3.OpDelete(one)}
		case 4:
			ops = []clientv3.Op{clientv3.OpDelete("k3", clientv3.WithRange("k6"))}
		case 5:
			if one != other {
				ops = append(ops, clientv3.OpPut(other, value))
			}
		case 6:
			ops = []clientv3.Op{nested(clientv3.OpPut(one, value)), nested(clientv3.OpDelete(one))}
		case 7:
			ops = []clientv3.Op{nested(clientv3.OpDelete(one, clientv3.WithFromKey())), nested(clientv3.OpPut(one, value))}
		}
		_, err := writers[rand.N(len(writers))].Txn(within(t, patience)).Then(ops...).Commit()
		require.NoError(t, err)
		if i == steps/2 {
			require.NoError(t, writers[1].Close()) // fences are raised when a process starts
			writers[1] = cluster.Client(t)
		}
	}
	for i := range keys {
		put(t, writers[0], fmt.Sprint("k", i), "end")
	}
	end := put(t, writers[0], "end", "")
	byKey := map[string][]*clientv3.Event{}
	for done := false; !done; {
		resp := takeResponse(t, seen)
		require.NoError(t, resp.Err())
		for _, ev := range resp.Events {
			byKey[string(ev.Kv.Key)] = append(byKey[string(ev.Kv.Key)], ev)
			done = done || string(ev.Kv.Key) == "end"
		}
	}

	late := cluster.Client(t)
	for i := range keys {
		key := fmt.Sprint("k", i)
		all := byKey[key]
		for rev := base; rev <= end; rev += 1 + rand.Int64N(3) {
			resp, err := late.Get(within(t, patience), key, clientv3.WithRev(rev))
			require.NoError(t, err)
			want := ""
			for _, ev := range all {
				if ev.Kv.ModRevision <= rev {
					want = ""
					if ev.Type == clientv3.EventTypePut {
						want = ev.Kv.String()
					}
				}
			}
			got := ""
			if len(resp.Kvs) > 0 {
				got = resp.Kvs[0].String()
			}
			require.Equal(t, want, got, "%s at %d", key, rev)
		}
		for range 6 {
			from := base + 1 + rand.Int64N(end-base)
			var want []*clientv3.Event
			for _, ev := range all {
				if ev.Kv.ModRevision >= from {
					want = append(want, ev)
				}
			}
			if len(want) == 0 {
				continue
			}
			w := late.Watch(t.Context(), key, clientv3.WithRev(from), clientv3.WithPrevKV())
			for i, ev := range take(t, w, len(want)) {
				require.Equal(t, want[i].String(), ev.String(), "%s from %d", key, from)
			}
		}
	}
}
