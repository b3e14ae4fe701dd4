package recipes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/metaetcd/metaetcd"
)

// TestQueue: what several processes put in comes out once, and what one of them put in, in its order.
func TestQueue(t *testing.T) {
	t.Parallel()
	ps := start(t, 3, metaetcd.Sharding{})
	const each = 30
	var g errgroup.Group
	for i, p := range ps {
		g.Go(func() error {
			q := recipe.NewQueue(p.Client, "queue")
			for n := range each {
				if err := q.Enqueue(fmt.Sprintf("%d-%03d", i, n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	out := make([][]string, len(ps))
	for i, p := range ps {
		g.Go(func() error {
			q := recipe.NewQueue(p.Client, "queue")
			for range each {
				v, err := q.Dequeue()
				if err != nil {
					return err
				}
				out[i] = append(out[i], v)
			}
			return nil
		})
	}
	within(t, "the queue", g.Wait)
	var want []string
	for i := range ps {
		for n := range each {
			want = append(want, fmt.Sprintf("%d-%03d", i, n))
		}
	}
	require.Equal(t, want, slices.Sorted(slices.Values(slices.Concat(out...))))
}

func TestPriorityQueue(t *testing.T) {
	t.Parallel()
	ps := start(t, 2, metaetcd.Sharding{})
	q := recipe.NewPriorityQueue(ps[0].Client, "queue")
	const items = 20
	for _, pr := range rand.Perm(items) {
		require.NoError(t, q.Enqueue(fmt.Sprint(pr), uint16(pr)))
	}
	q = recipe.NewPriorityQueue(ps[1].Client, "queue")
	for pr := range items {
		v, err := q.Dequeue()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(pr), v)
	}
}

func TestBarriers(t *testing.T) {
	t.Parallel()
	ps := start(t, 3, metaetcd.Sharding{})
	b := recipe.NewBarrier(ps[0].Client, "barrier")
	require.NoError(t, b.Hold())
	require.Equal(t, recipe.ErrKeyExists, recipe.NewBarrier(ps[1].Client, "barrier").Hold())
	var released atomic.Bool
	var g errgroup.Group
	for _, p := range ps {
		g.Go(func() error {
			err := recipe.NewBarrier(p.Client, "barrier").Wait()
			if err == nil && !released.Load() {
				err = errors.New("passed a barrier that was held")
			}
			return err
		})
	}
	time.Sleep(100 * time.Millisecond) // nobody passes meanwhile
	released.Store(true)
	require.NoError(t, b.Release())
	within(t, "the barrier", g.Wait)

	var inside atomic.Int32
	for _, p := range ps {
		s := session(t, p)
		g.Go(func() error {
			d := recipe.NewDoubleBarrier(s, "double", len(ps))
			inside.Add(1)
			if err := d.Enter(); err != nil {
				return err
			}
			if n := inside.Load(); n < int32(len(ps)) {
				return fmt.Errorf("entered with %d others", n-1)
			}
			return d.Leave()
		})
	}
	within(t, "the double barrier", g.Wait)
}

// TestRWMutex: writers are alone, readers are not, and locks come free whose holders' sessions nobody keeps alive any more.
func TestRWMutex(t *testing.T) {
	t.Parallel()
	ps := start(t, 3, metaetcd.Sharding{})
	var readers, writers, together atomic.Int32
	check := func() error {
		r, w := readers.Load(), writers.Load()
		if w > 1 || w == 1 && r > 0 {
			return fmt.Errorf("%d writers and %d readers at once", w, r)
		}
		if r > 1 {
			together.Add(1)
		}
		return nil
	}
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			s, err := concurrency.NewSession(ps[i%3].Client, concurrency.WithTTL(ttl))
			if err != nil {
				return err
			}
			defer s.Orphan() // with the last lock, which nobody gives back
			for n := range 8 {
				m := recipe.NewRWMutex(s, "rw")
				lock, unlock, who := m.RLock, m.RUnlock, &readers
				if i == 0 || i == 1 && n%2 == 0 {
					lock, unlock, who = m.Lock, m.Unlock, &writers
				}
				if err := lock(); err != nil {
					return err
				}
				who.Add(1)
				err := check()
				time.Sleep(rand.N(4 * time.Millisecond))
				err = errors.Join(err, check())
				who.Add(-1)
				if err != nil {
					return err
				}
				if n == 7 {
					return nil
				}
				if err := unlock(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	within(t, "the lock", g.Wait)
	require.NotZero(t, together.Load(), "no two readers at once")
}

// TestLeasing: a leased cache gives what was written last, by whomever. Its transactions touch a key and the leasing key that
// belongs to it.
func TestLeasing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sharding    metaetcd.Sharding
		prefix, key string
	}{
		"one member": {together, "a/leasing/", "a/"},
		"members":    {metaetcd.Sharding{}, "leasing/", "k"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ps := start(t, 2, tt.sharding)
			var kvs []clientv3.KV
			for _, p := range ps {
				kv, end, err := leasing.NewKV(p.Client, tt.prefix, concurrency.WithTTL(ttl))
				require.NoError(t, err)
				t.Cleanup(end)
				kvs = append(kvs, kv)
			}
			for i := range 40 {
				key, value := fmt.Sprintf("%s%d", tt.key, i%3), fmt.Sprint(i)
				put, err := kvs[i%2].Put(ctx(t), key, value)
				require.NoError(t, err)
				for _, kv := range kvs {
					resp, err := kv.Get(ctx(t), key)
					require.NoError(t, err)
					require.Equal(t, value, string(resp.Kvs[0].Value))
					require.Equal(t, put.Header.Revision, resp.Kvs[0].ModRevision)
				}
			}
			txn, err := kvs[0].Txn(ctx(t)).If(clientv3.Compare(clientv3.Value(tt.key+"0"), "=", "39")).Then(clientv3.OpPut(tt.key+"0", "t")).Commit()
			require.NoError(t, err)
			require.True(t, txn.Succeeded)
			_, err = kvs[1].Delete(ctx(t), tt.key+"0")
			require.NoError(t, err)
			resp, err := kvs[0].Get(ctx(t), tt.key+"0")
			require.NoError(t, err)
			require.Empty(t, resp.Kvs)
		})
	}
}

// TestMirror: a mirror has what its source has, whatever happens while it begins.
func TestMirror(t *testing.T) {
	t.Parallel()
	ps := start(t, 2, metaetcd.Sharding{})
	end, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers errgroup.Group
	halfway := make(chan struct{})
	for i, p := range ps {
		writers.Go(func() error {
			for n := range 200 {
				if i == 0 && n == 100 {
					close(halfway)
				}
				key := fmt.Sprintf("m/%02d", rand.IntN(40))
				var err error
				if rand.IntN(4) == 0 {
					_, err = p.Delete(t.Context(), key)
				} else {
					_, err = p.Put(t.Context(), key, fmt.Sprintf("%d-%d", i, n))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	select {
	case <-halfway:
	case <-time.After(patience):
		require.FailNow(t, "the writers do not come on")
	}
	copied := map[string]string{}
	sync := mirror.NewSyncer(ps[1].Client, "m/", 0)
	pages, errs := sync.SyncBase(end)
	for page := range pages {
		for _, kv := range page.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	require.NoError(t, <-errs)
	updates := sync.SyncUpdates(end)
	require.NoError(t, writers.Wait())
	last, err := ps[0].Put(ctx(t), "m/last", "")
	require.NoError(t, err)
	for reached := false; !reached; {
		resp := <-updates
		require.NoError(t, resp.Err())
		for _, ev := range resp.Events {
			if ev.Type == clientv3.EventTypeDelete {
				delete(copied, string(ev.Kv.Key))
			} else {
				copied[string(ev.Kv.Key)] = string(ev.Kv.Value)
			}
			reached = reached || ev.Kv.ModRevision == last.Header.Revision
		}
	}
	source := map[string]string{}
	resp, err := ps[0].Get(ctx(t), "m/", clientv3.WithPrefix())
	require.NoError(t, err)
	for _, kv := range resp.Kvs {
		source[string(kv.Key)] = string(kv.Value)
	}
	require.Equal(t, source, copied)
}

// TestNamespace: KV, Watcher and Lease behind a prefix, and a mutex upon them.
func TestNamespace(t *testing.T) {
	t.Parallel()
	ps := start(t, 1, metaetcd.Sharding{})
	raw, boxed := ps[0].meta, ps[0].Client
	boxed.KV, boxed.Watcher, boxed.Lease = namespace.NewKV(boxed.KV, "box/"), namespace.NewWatcher(boxed.Watcher, "box/"), namespace.NewLease(boxed.Lease, "box/")
	w := boxed.Watch(ctx(t), "k", clientv3.WithPrefix())
	s := session(t, ps[0])
	_, err := boxed.Put(ctx(t), "k1", "v", clientv3.WithLease(s.Lease()))
	require.NoError(t, err)
	require.Equal(t, "k1", string((<-w).Events[0].Kv.Key))
	resp, err := raw.Get(ctx(t), "box/k1")
	require.NoError(t, err)
	require.EqualValues(t, 1, resp.Count)
	keys, err := boxed.TimeToLive(ctx(t), s.Lease(), clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("k1")}, keys.Keys)
	m := concurrency.NewMutex(s, "lock")
	require.NoError(t, m.Lock(ctx(t)))
	require.NoError(t, m.Unlock(ctx(t)))
	require.NoError(t, s.Close())
	require.Equal(t, clientv3.EventTypeDelete, (<-w).Events[0].Type)
}

// TestNaming: endpoints of a service come and go, with their leases as well.
func TestNaming(t *testing.T) {
	t.Parallel()
	ps := start(t, 2, metaetcd.Sharding{})
	m, err := endpoints.NewManager(ps[0].Client, "service")
	require.NoError(t, err)
	other, err := endpoints.NewManager(ps[1].Client, "service")
	require.NoError(t, err)
	watching, cancel := context.WithCancel(ctx(t))
	defer cancel()
	changes, err := other.NewWatchChannel(watching)
	require.NoError(t, err)
	s := session(t, ps[0])
	require.NoError(t, m.AddEndpoint(ctx(t), "service/a", endpoints.Endpoint{Addr: "a:1"}, clientv3.WithLease(s.Lease())))
	require.NoError(t, m.AddEndpoint(ctx(t), "service/b", endpoints.Endpoint{Addr: "b:1"}))
	var batch []*endpoints.Update
	next := func() *endpoints.Update {
		t.Helper()
		if len(batch) == 0 { // several changes may come at once
			batch = <-changes
			require.NotEmpty(t, batch, "the watch has ended")
		}
		first := batch[0]
		batch = batch[1:]
		return first
	}
	require.Equal(t, "a:1", next().Endpoint.Addr)
	require.Equal(t, "b:1", next().Endpoint.Addr)
	all, err := other.List(ctx(t))
	require.NoError(t, err)
	require.Len(t, all, 2)
	s.Orphan()
	gone := next()
	require.Equal(t, endpoints.Delete, gone.Op)
	require.Equal(t, "service/a", gone.Key)
	require.NoError(t, other.DeleteEndpoint(ctx(t), "service/b"))
	require.Equal(t, "service/b", next().Key)
	cancel()
	for range changes { // ends with its context
	}
}
