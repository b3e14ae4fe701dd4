package client

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// written is a history as its writer knows it. A revision may pass without an event, when a write had to take a second stamp.
type written struct {
	states []state // by ascending revision; the first is the empty store
}

// state is what an event left in the store.
type state struct {
	rev   int64
	event string // as describe shows it
	kvs   map[string]string
}

// at returns the index of the state that was there at a revision, the first if there was none.
func (w *written) at(rev int64) int {
	i, exact := slices.BinarySearchFunc(w.states, rev, func(s state, rev int64) int { return cmp.Compare(s.rev, rev) })
	if !exact {
		i--
	}
	return max(i, 0)
}

// last is the newest revision.
func (w *written) last() int64 { return w.states[len(w.states)-1].rev }

// list returns the store at a revision, as the function list shows it.
func (w *written) list(rev int64) []string {
	kvs := w.states[w.at(rev)].kvs
	all := []string{}
	for _, key := range slices.Sorted(maps.Keys(kvs)) {
		all = append(all, key+"="+kvs[key])
	}
	return all
}

// events returns those from a revision on.
func (w *written) events(rev int64) []string {
	var events []string
	for _, s := range w.states[w.at(rev-1)+1:] {
		events = append(events, s.event)
	}
	return events
}

// write goes on with random puts and deletes of a few keys, through random ones of the clients.
func (w *written) write(t *testing.T, n int, clients ...*metaetcd.Client) {
	t.Helper()
	if w.states == nil {
		w.states = []state{{rev: 1}}
	}
	for i := range n {
		cli := clients[rand.N(len(clients))]
		next := state{kvs: maps.Clone(w.states[len(w.states)-1].kvs)}
		if next.kvs == nil {
			next.kvs = map[string]string{}
		}
		key := fmt.Sprint("k", rand.N(12))
		if _, ok := next.kvs[key]; ok && rand.N(4) == 0 {
			resp, err := cli.Delete(within(t, patience), key)
			require.NoError(t, err)
			delete(next.kvs, key)
			next.rev, next.event = resp.Header.Revision, fmt.Sprintf("%d %s", resp.Header.Revision, key)
		} else {
			value := fmt.Sprintf("%032d", i)
			next.rev, next.kvs[key] = put(t, cli, key, value), value
			next.event = fmt.Sprintf("%d %s=%s", next.rev, key, value)
		}
		require.Greater(t, next.rev, w.last())
		w.states = append(w.states, next)
	}
}

// check compares what a client knows of the past, from the compacted revision on, with what was written.
func (w *written) check(t *testing.T, cli *metaetcd.Client, compacted int64) {
	t.Helper()
	from := max(compacted, 1)
	for rev := from; rev <= w.last(); rev += 1 + rand.Int64N(15) {
		require.Equal(t, w.list(rev), list(t, cli, clientv3.WithRev(rev)), "revision %d", rev)
		for _, key := range []string{"k0", "k7"} {
			resp, err := cli.Get(within(t, patience), key, clientv3.WithRev(rev), clientv3.WithSerializable())
			require.NoError(t, err)
			value, ok := w.states[w.at(rev)].kvs[key]
			require.Equal(t, ok, resp.Count == 1)
			if ok {
				require.Equal(t, value, string(resp.Kvs[0].Value))
			}
		}
	}
	for _, rev := range []int64{from, (from + w.last()) / 2, w.last()} {
		w.checkWatch(t, cli, rev, compacted)
	}
	if compacted == 0 {
		return
	}
	for _, rev := range []int64{compacted - 1, 1} {
		_, err := cli.Get(within(t, patience), "k0", clientv3.WithRev(rev))
		require.Equal(t, rpctypes.ErrCompacted, err, "revision %d", rev)
		_, err = cli.Get(within(t, patience), "", clientv3.WithPrefix(), clientv3.WithRev(rev))
		require.Equal(t, rpctypes.ErrCompacted, err, "revision %d", rev)
		resp := takeResponse(t, cli.Watch(t.Context(), "k0", clientv3.WithRev(rev)))
		require.Equal(t, rpctypes.ErrCompacted, resp.Err(), "a watch from %d", rev)
		require.Equal(t, compacted, resp.CompactRevision)
	}
}

// checkWatch watches from a revision on.
func (w *written) checkWatch(t *testing.T, cli *metaetcd.Client, rev, compacted int64) {
	t.Helper()
	watch := cli.Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithPrevKV())
	want := w.events(rev)
	evs := take(t, watch, len(want))
	require.Equal(t, want, describe(evs), "a watch from %d", rev)
	for _, ev := range evs {
		if ev.Kv.ModRevision <= compacted { // as in etcd, what was before is gone
			continue
		}
		before, ok := w.states[w.at(ev.Kv.ModRevision-1)].kvs[string(ev.Kv.Key)]
		require.Equal(t, ok, ev.PrevKv != nil)
		if ok {
			require.Equal(t, before, string(ev.PrevKv.Value))
		}
	}
}

// TestHistory: the past can be read and watched by processes that were there, by one that remembers next to nothing, and by
// one that came later, before and after compactions.
func TestHistory(t *testing.T) {
	t.Parallel()
	const n = 100
	cluster := newCluster(t, 3)
	forgetful := cluster.Config()
	forgetful.LogBytes = 2 << 10
	a, b := cluster.Client(t), open(t, forgetful)
	clients := map[string]*metaetcd.Client{"remembers": a, "forgets": b}
	var w written
	w.write(t, n, a, b)
	clients["came later"] = open(t, forgetful)
	w.write(t, n, a, b)
	check := func(stage string, compacted int64) {
		t.Run(stage, func(t *testing.T) {
			for name, cli := range clients {
				t.Run(name, func(t *testing.T) { w.check(t, cli, compacted) })
			}
		})
	}
	check("whole", 0)

	for _, compacted := range []int64{3, n / 2, n + 10} {
		_, err := b.Compact(within(t, patience), compacted)
		require.NoError(t, err)
		_, err = a.Compact(within(t, patience), compacted)
		require.Equal(t, rpctypes.ErrCompacted, err)
		requireCompacted(t, clients, compacted)
		check(fmt.Sprint("compacted at ", compacted), compacted)
	}
	clients["came last"] = open(t, forgetful)
	w.write(t, 10, a, b)
	check("at the end", n+10)

	// Everything can go but the present.
	now := w.last()
	_, err := a.Compact(within(t, patience), now, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	requireCompacted(t, clients, now)
	check("all gone", now)
}

// requireCompacted waits until all clients know the compacted revision.
func requireCompacted(t *testing.T, clients map[string]*metaetcd.Client, rev int64) {
	t.Helper()
	for _, cli := range clients {
		require.Eventually(t, func() bool {
			_, err := cli.Get(within(t, patience), "k0", clientv3.WithRev(rev-1), clientv3.WithSerializable())
			return err != nil
		}, patience, tick)
	}
}
