package watchhub

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/metaetcd/metaetcd/internal/bridge"
)

// watcher returns clientv3's Watcher over the hub, with a client whose own connection is never used.
func (f *fixture) watcher() clientv3.Watcher {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = c.Close() })
	w := clientv3.NewWatchFromWatchClient(bridge.WatchClient(f.hub), c)
	f.t.Cleanup(func() { _ = w.Close() })
	return w
}

func next(t testing.TB, ch clientv3.WatchChan) clientv3.WatchResponse {
	select {
	case r, ok := <-ch:
		require.True(t, ok, "the channel is closed")
		return r
	case <-time.After(patience):
		t.Fatal("no response")
		return clientv3.WatchResponse{}
	}
}

func TestClientOptions(t *testing.T) {
	f := setup(t, Options{MaxRequestBytes: 1 << 10, ProgressInterval: 20 * time.Millisecond})
	w := f.watcher()
	ctx := t.Context()
	all := w.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	r := next(t, all)
	require.True(t, r.Created)
	require.EqualValues(t, 1, r.Header.Revision)
	fragments := w.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithFragment())
	puts := w.Watch(ctx, "k", clientv3.WithFromKey(), clientv3.WithFilterDelete())
	deletes := w.Watch(ctx, "k0", clientv3.WithFilterPut())

	var ops, dels []op
	for i := range 10 {
		ops = append(ops, put(fmt.Sprint("k", i), strings.Repeat("v", 500)))
		dels = append(dels, del(fmt.Sprint("k", i)))
	}
	f.src.commit(ops...)
	f.src.commit(dels...)
	for _, ch := range []clientv3.WatchChan{all, fragments} {
		n := 0
		for n < 20 {
			n += len(next(t, ch).Events)
		}
		require.Equal(t, 20, n)
	}
	for n := 0; n < 10; {
		r := next(t, puts)
		n += len(r.Events)
		for _, ev := range r.Events {
			require.True(t, ev.IsCreate())
		}
	}
	require.Equal(t, clientv3.EventTypeDelete, next(t, deletes).Events[0].Type)

	progress := w.Watch(ctx, "other", clientv3.WithProgressNotify())
	r = next(t, progress)
	require.True(t, r.IsProgressNotify())
	require.EqualValues(t, 3, r.Header.Revision)
}

func TestClientRequestProgress(t *testing.T) {
	f := setup(t, Options{})
	w := f.watcher()
	a, b := w.Watch(t.Context(), "a"), w.Watch(t.Context(), "b")
	f.src.commit(put("c", "1"))
	require.NoError(t, w.RequestProgress(t.Context()))
	for _, ch := range []clientv3.WatchChan{a, b} {
		r := next(t, ch)
		require.True(t, r.IsProgressNotify())
		require.EqualValues(t, 2, r.Header.Revision)
	}
}

func TestClientCancelOneOfTwo(t *testing.T) {
	f := setup(t, Options{})
	w := f.watcher()
	ctx, cancel := context.WithCancel(t.Context())
	a, b := w.Watch(ctx, "a"), w.Watch(t.Context(), "a")
	cancel()
	for range a {
	}
	eventually(t, func() bool { n, _, _ := f.hub.Stats(); return n == 1 }, "the hub should know")
	f.src.commit(put("a", "1"))
	require.Len(t, next(t, b).Events, 1)
	require.NoError(t, w.Close())
	eventually(t, func() bool { n, _, _ := f.hub.Stats(); return n == 0 }, "the hub should know")
}

func TestClientCompactedAndFailed(t *testing.T) {
	f := setup(t, Options{})
	for range 5 {
		f.src.commit(put("a", "1"))
	}
	f.src.set(func(f *fakeSource) { f.compacted = 4 })
	w := f.watcher()
	r := next(t, w.Watch(t.Context(), "a", clientv3.WithRev(2)))
	require.Equal(t, rpctypes.ErrCompacted, r.Err())
	require.EqualValues(t, 4, r.CompactRevision)
	r = next(t, w.Watch(t.Context(), "a", clientv3.WithRev(-3)))
	require.Equal(t, rpctypes.ErrCompacted, r.Err())

	a, b := w.Watch(t.Context(), "a"), w.Watch(t.Context(), "b")
	f.src.fail(errBoom)
	for _, ch := range []clientv3.WatchChan{a, b} {
		r := next(t, ch)
		require.True(t, r.Canceled)
		require.ErrorContains(t, r.Err(), "boom")
	}
}

// TestClientNamespace: it rewrites keys in place, and must not rewrite those of others.
func TestClientNamespace(t *testing.T) {
	f := setup(t, Options{})
	w := f.watcher()
	plain := w.Watch(t.Context(), "ns/k", clientv3.WithPrevKV())
	inside := namespace.NewWatcher(f.watcher(), "ns/").Watch(t.Context(), "k", clientv3.WithPrevKV())
	again := namespace.NewWatcher(f.watcher(), "ns/").Watch(t.Context(), "k", clientv3.WithPrevKV())
	f.src.commit(put("ns/k", "1"))
	f.src.commit(put("ns/k", "2"))
	for ch, key := range map[clientv3.WatchChan]string{plain: "ns/k", inside: "k", again: "k"} {
		for n := 0; n < 2; {
			for _, ev := range next(t, ch).Events {
				n++
				require.Equal(t, key, string(ev.Kv.Key))
				if ev.PrevKv != nil {
					require.Equal(t, key, string(ev.PrevKv.Key))
				}
			}
		}
	}
}

// TestThousandsOfWatchers: on one client, in several ranges, created in the past and now.
func TestThousandsOfWatchers(t *testing.T) {
	const watchers = 5000
	f := setup(t, Options{})
	for i := range 100 {
		f.src.commit(put(fmt.Sprintf("k%d/x", i), "old"))
	}
	w := f.watcher()
	chans := make([]clientv3.WatchChan, watchers)
	for i := range chans {
		opts := []clientv3.OpOption{clientv3.WithPrefix()}
		if i%2 == 0 {
			opts = append(opts, clientv3.WithRev(2))
		}
		chans[i] = w.Watch(t.Context(), fmt.Sprintf("k%d/", i%100), opts...)
	}
	for i := range 100 {
		f.src.commit(put(fmt.Sprintf("k%d/x", i), "new"))
	}
	for i, ch := range chans {
		want := []string{"new"}
		if i%2 == 0 {
			want = []string{"old", "new"}
		}
		var got []string
		for len(got) < len(want) {
			for _, ev := range next(t, ch).Events {
				got = append(got, string(ev.Kv.Value))
			}
		}
		require.Equal(t, want, got)
	}
	n, _, events := f.hub.Stats()
	require.Equal(t, watchers, n)
	require.EqualValues(t, watchers*3/2, events)
}
