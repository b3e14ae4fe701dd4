package client

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

const (
	// slots is few: creation writes a record for each.
	slots = 64
	// patience bounds waits that must succeed. Only a failure takes that long.
	patience = 2 * time.Minute
	// soon is how late, on a busy machine, something may be that has a time limit of its own.
	soon = 10 * time.Second
	// tick is how often something is looked at that nothing announces.
	tick = 5 * time.Millisecond
)

func newCluster(t *testing.T, members int, opts ...metaetcdtest.Option) *metaetcdtest.Cluster {
	t.Helper()
	defaults := []metaetcdtest.Option{metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(metaetcd.Sharding{Slots: slots})}
	return metaetcdtest.New(t, members, append(defaults, opts...)...)
}

// open opens a client with a configuration that cluster.Client does not make, and closes it when the test ends.
func open(t *testing.T, cfg metaetcd.Config) *metaetcd.Client {
	t.Helper()
	cli, err := metaetcd.New(within(t, patience), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cli.Close()) })
	return cli
}

// within is a context of the test that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// keyOn returns a key with the prefix that lives on the given member of the cluster.
func keyOn(t *testing.T, cluster *metaetcdtest.Cluster, member int, prefix string) string {
	t.Helper()
	var names []string
	for _, m := range cluster.Members {
		names = append(names, m.Name())
	}
	r, err := ring.New(names, slots, ring.Policy{})
	require.NoError(t, err)
	for i := 0; ; i++ {
		key := fmt.Sprintf("%s%04d", prefix, i)
		if r.Names()[r.MemberOf([]byte(key))] == names[member] {
			return key
		}
	}
}

// put writes a key and returns the revision.
func put(t *testing.T, kv clientv3.KV, key, value string) int64 {
	t.Helper()
	resp, err := kv.Put(within(t, patience), key, value)
	require.NoError(t, err)
	return resp.Header.Revision
}

// list returns what a range of everything shows, as key=value.
func list(t *testing.T, kv clientv3.KV, opts ...clientv3.OpOption) []string {
	t.Helper()
	resp, err := kv.Get(within(t, patience), "", append([]clientv3.OpOption{clientv3.WithPrefix()}, opts...)...)
	require.NoError(t, err)
	require.EqualValues(t, len(resp.Kvs), resp.Count)
	all := []string{}
	for _, kv := range resp.Kvs {
		all = append(all, string(kv.Key)+"="+string(kv.Value))
	}
	return all
}

// take reads n events off a watch. Every response on the way must be one of events, in order.
func take(t *testing.T, w clientv3.WatchChan, n int) []*clientv3.Event {
	t.Helper()
	var evs []*clientv3.Event
	for len(evs) < n {
		resp := takeResponse(t, w)
		require.NoError(t, resp.Err())
		for _, ev := range resp.Events {
			if len(evs) > 0 {
				require.GreaterOrEqual(t, ev.Kv.ModRevision, evs[len(evs)-1].Kv.ModRevision)
			}
			evs = append(evs, ev)
		}
	}
	require.Len(t, evs, n)
	return evs
}

// takeResponse reads the next response of a watch.
func takeResponse(t *testing.T, w clientv3.WatchChan) clientv3.WatchResponse {
	t.Helper()
	select {
	case resp, ok := <-w:
		require.True(t, ok, "the watch ended")
		return resp
	case <-time.After(patience):
		require.FailNow(t, "the watch says nothing")
		panic("unreachable")
	}
}

// quiet fails the test if a watch says anything for a while.
func quiet(t *testing.T, w clientv3.WatchChan, d time.Duration) {
	t.Helper()
	select {
	case resp := <-w:
		require.FailNow(t, "the watch was to be quiet", "%+v", resp)
	case <-time.After(d):
	}
}

// describe shows events as "revision key=value", deletes without a value.
func describe(evs []*clientv3.Event) []string {
	var out []string
	for _, ev := range evs {
		s := fmt.Sprintf("%d %s", ev.Kv.ModRevision, ev.Kv.Key)
		if ev.Type == clientv3.EventTypePut {
			s += "=" + string(ev.Kv.Value)
		}
		out = append(out, s)
	}
	return out
}

// nativeRevisions reads the revisions of the etcds themselves: they move with every write, whoever did it.
func nativeRevisions(t *testing.T, clients []*clientv3.Client) []int64 {
	t.Helper()
	var revs []int64
	for _, cli := range clients {
		resp, err := cli.Get(within(t, patience), "k", clientv3.WithCountOnly())
		require.NoError(t, err)
		revs = append(revs, resp.Header.Revision)
	}
	return revs
}

func directClients(t *testing.T, nodes ...*metaetcdtest.Node) []*clientv3.Client {
	t.Helper()
	var clients []*clientv3.Client
	for _, n := range nodes {
		clients = append(clients, n.DirectClient(t))
	}
	return clients
}

// library is found in the stacks of all goroutines that the library has started, the etcd watchers it opened included.
var library = []string{"github.com/metaetcd/metaetcd.", "github.com/metaetcd/metaetcd/internal/", "client/v3.(*watch"}

// requireNoneLeft fails the test unless all goroutines of the library end soon. Clients of etcds may stay open.
func requireNoneLeft(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(patience / 4); time.Now().Before(deadline); time.Sleep(tick) {
		if left = libraryGoroutines(); len(left) == 0 {
			return
		}
	}
	require.FailNow(t, "goroutines are left", "%d, the first of them:\n%s", len(left), left[0])
}

func libraryGoroutines() []string {
	buf := make([]byte, 4<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(stacks, func(stack string) bool {
		return !slices.ContainsFunc(library, func(name string) bool { return strings.Contains(stack, name) })
	})
}
