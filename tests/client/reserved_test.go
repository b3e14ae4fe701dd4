package client

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// TestReservedKeys: the names that members keep for themselves can be neither read nor written one by one, on any way, and
// no range or watch shows them.
func TestReservedKeys(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	everything := cli.Watch(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithPrevKV())
	ctx := within(t, patience)

	const key = "\x00fence"
	refused := map[string]func() error{
		"get":         func() error { _, err := cli.Get(ctx, key); return err },
		"stale get":   func() error { _, err := cli.Get(ctx, key, clientv3.WithSerializable()); return err },
		"put":         func() error { _, err := cli.Put(ctx, key, "v"); return err },
		"delete":      func() error { _, err := cli.Delete(ctx, key); return err },
		"lone zero":   func() error { _, err := cli.Put(ctx, "\x00", "v"); return err },
		"then":        func() error { _, err := cli.Txn(ctx).Then(clientv3.OpPut(key, "v")).Commit(); return err },
		"else":        func() error { _, err := cli.Txn(ctx).Else(clientv3.OpGet(key)).Commit(); return err },
		"else delete": func() error { _, err := cli.Txn(ctx).Else(clientv3.OpDelete(key)).Commit(); return err },
		"compare": func() error {
			_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), ">", 0)).Commit()
			return err
		},
		"nested": func() error {
			_, err := cli.Txn(ctx).Then(clientv3.OpPut("k", "v"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key, "v")}, nil)).Commit()
			return err
		},
	}
	for name, do := range refused {
		t.Run(name, func(t *testing.T) { require.ErrorIs(t, do(), metaetcd.ErrReservedKey) })
	}

	// Every member has records of its own now, and keys around them: the lowest and the highest that a user may have.
	keys := []string{"\x01", "\x01\x00", "a", "\xfe", "\xff", "\xff\xff\xff"}
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
	}
	slices.Sort(keys)
	for _, key := range keys {
		put(t, cli, key, "v")
	}
	ranges := map[string]struct {
		from string
		opts []clientv3.OpOption
		want []string
	}{
		"everything":            {"", []clientv3.OpOption{clientv3.WithPrefix()}, keys},
		"from zero":             {"\x00", []clientv3.OpOption{clientv3.WithFromKey()}, keys},
		"from a record":         {"\x00fence", []clientv3.OpOption{clientv3.WithFromKey()}, keys},
		"from one":              {"\x01", []clientv3.OpOption{clientv3.WithFromKey()}, keys},
		"records":               {"\x00", []clientv3.OpOption{clientv3.WithRange("\x01")}, nil},
		"prefix of records":     {"\x00slot/", []clientv3.OpOption{clientv3.WithPrefix()}, nil},
		"records and the first": {"\x00", []clientv3.OpOption{clientv3.WithRange("\x01\x00")}, keys[:1]},
		"a record to a key":     {"\x00clock", []clientv3.OpOption{clientv3.WithRange("a")}, keys[:2]},
		"the last":              {"\xff\xff\xff", []clientv3.OpOption{clientv3.WithFromKey()}, keys[len(keys)-1:]},
		"the last prefix":       {"\xff", []clientv3.OpOption{clientv3.WithPrefix()}, keys[len(keys)-2:]},
	}
	for name, r := range ranges {
		t.Run(name, func(t *testing.T) {
			for _, more := range [][]clientv3.OpOption{nil, {clientv3.WithSerializable()}, {clientv3.WithKeysOnly()}, {clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}} {
				resp, err := cli.Get(ctx, r.from, append(more, r.opts...)...)
				require.NoError(t, err)
				require.EqualValues(t, len(r.want), resp.Count)
				require.False(t, resp.More)
				var got []string
				for _, kv := range resp.Kvs {
					got = append(got, string(kv.Key))
				}
				require.Equal(t, r.want, got)
			}
			count, err := cli.Get(ctx, r.from, append([]clientv3.OpOption{clientv3.WithCountOnly()}, r.opts...)...)
			require.NoError(t, err)
			require.EqualValues(t, len(r.want), count.Count)
			require.Empty(t, count.Kvs)
			first, err := cli.Get(ctx, r.from, append([]clientv3.OpOption{clientv3.WithLimit(1)}, r.opts...)...)
			require.NoError(t, err)
			require.EqualValues(t, len(r.want), first.Count, "the limit does not change the count")
			require.Equal(t, len(r.want) > 1, first.More)
			require.Len(t, first.Kvs, min(len(r.want), 1))
		})
	}

	// Overwriting, deleting and comparing leave records on the members; a watch of everything sees the user's keys alone.
	for _, key := range keys {
		_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", "v")).Then(clientv3.OpDelete(key)).Commit()
		require.NoError(t, err)
	}
	for i, ev := range take(t, everything, 2*len(keys)) {
		require.Equal(t, keys[i%len(keys)], string(ev.Kv.Key))
		require.NotEqual(t, byte(0), ev.Kv.Key[0])
	}
	records := cli.Watch(t.Context(), "\x00", clientv3.WithRange("\x01"), clientv3.WithRev(1))
	put(t, cli, "k", "v")
	take(t, everything, 1)
	quiet(t, records, 10*tick)

	// On one member everything can be deleted at once, but for the records.
	one := newCluster(t, 1)
	lone := one.Client(t)
	put(t, lone, "a", "v")
	put(t, lone, "b", "v")
	native := one.Members[0].DirectClient(t)
	before := countRecords(t, native)
	del, err := lone.Delete(ctx, "\x00", clientv3.WithFromKey())
	require.NoError(t, err)
	require.EqualValues(t, 2, del.Deleted)
	require.GreaterOrEqual(t, countRecords(t, native), before)
	put(t, lone, "c", "v")
	require.Equal(t, []string{"c=v"}, list(t, lone))
}

// countRecords counts the reserved records of a member.
func countRecords(t *testing.T, native *clientv3.Client) int64 {
	t.Helper()
	resp, err := native.Get(within(t, patience), "\x00", clientv3.WithRange("\x01"), clientv3.WithCountOnly())
	require.NoError(t, err)
	return resp.Count
}

// TestValuesAreTheUsers: what members keep beside the value never shows, whatever the value looks like.
func TestValuesAreTheUsers(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	values := []string{"", "\x00", strings.Repeat("\x00", 8), strings.Repeat("\xff", 16), "\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00v", string(bytes.Repeat([]byte("large"), 100<<10))}
	w := cli.Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	for i, v := range values {
		key := fmt.Sprint("k", i)
		put(t, cli, key, "before")
		resp, err := cli.Put(within(t, patience), key, v, clientv3.WithPrevKV())
		require.NoError(t, err)
		require.Equal(t, "before", string(resp.PrevKv.Value))
		got, err := cli.Get(within(t, patience), key)
		require.NoError(t, err)
		require.Equal(t, v, string(got.Kvs[0].Value))
		txn, err := cli.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Value(key), "=", v)).Then(clientv3.OpDelete(key, clientv3.WithPrevKV())).Commit()
		require.NoError(t, err)
		require.True(t, txn.Succeeded)
		require.Equal(t, v, string(txn.Responses[0].GetResponseDeleteRange().PrevKvs[0].Value))
		evs := take(t, w, 3)
		require.Equal(t, v, string(evs[1].Kv.Value))
		require.Equal(t, v, string(evs[2].PrevKv.Value))
	}
}
