package client

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// ended checks what waited when a client was closed.
func ended(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, metaetcd.ErrUnknownOutcome) {
		require.ErrorIs(t, err, metaetcd.ErrClosed)
	}
}

// TestCloseWhileFrozen: whatever waits for a cluster that does not answer, without a deadline, ends with Close, which takes its
// second.
func TestCloseWhileFrozen(t *testing.T) {
	var sent requests
	cluster := newCluster(t, 2, sent.seen())
	names := []*metaetcdtest.Node{cluster.Members[0], cluster.Members[1], cluster.Coordinator}
	var keys [2]string
	for i := range keys {
		keys[i] = keyOn(t, cluster, i, "k")
	}
	seed, err := metaetcd.New(within(t, patience), cluster.DirectConfig())
	require.NoError(t, err)
	first := put(t, seed, keys[0], "1")
	for range 3 {
		put(t, seed, keys[0], "more")
		put(t, seed, keys[1], "more")
	}
	granted, err := seed.Grant(within(t, patience), 600)
	require.NoError(t, err)
	require.NoError(t, seed.Close())
	calls := map[string]func(ctx context.Context, cli *metaetcd.Client) error{
		"compact": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Compact(ctx, first)
			return err
		},
		"old revision": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(first))
			return err
		},
		"old revision of a key": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Get(ctx, keys[0], clientv3.WithRev(first))
			return err
		},
		"stream of an old revision": func(ctx context.Context, cli *metaetcd.Client) error {
			stream, err := cli.GetStream(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(first))
			if err == nil {
				_, err = clientv3.GetStreamToGetResponse(stream)
			}
			return err
		},
		"across members": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Txn(ctx).Then(clientv3.OpPut(keys[0], "x"), clientv3.OpPut(keys[1], "x")).Commit()
			return err
		},
		"delete of all": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Delete(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
			return err
		},
		"put with an answer": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Put(ctx, keys[0], "x", clientv3.WithPrevKV())
			return err
		},
		"grant": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Grant(ctx, 60)
			return err
		},
		"revoke": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Revoke(ctx, granted.ID)
			return err
		},
		"time to live": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
			return err
		},
		"attach": func(ctx context.Context, cli *metaetcd.Client) error {
			_, err := cli.Put(ctx, keys[0], "x", clientv3.WithLease(granted.ID+1))
			return err
		},
	}
	for _, node := range names {
		for name, call := range calls {
			if name == "revoke" && node == cluster.Coordinator {
				continue // the lease is revoked at last
			}
			t.Run(node.Name()+" "+name, func(t *testing.T) {
				cfg := cluster.Config()
				cfg.MemberTimeout = patience // that is not what ends it
				cli, err := metaetcd.New(within(t, patience), cfg)
				require.NoError(t, err)
				w := cli.Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithRev(first)) // its replay waits as well
				node.Cut()
				defer node.Heal()
				done, asked := make(chan error, 1), sent.next(node)
				go func() { done <- call(t.Context(), cli) }()
				select {
				case err := <-done: // it needs nothing of the one that is frozen
					require.NoError(t, err)
					done <- metaetcd.ErrClosed
				case <-asked:
				case <-time.After(patience):
					require.FailNow(t, "nobody asks the one that is frozen")
				}
				begin := time.Now()
				require.NoError(t, cli.Close())
				err = <-done
				require.Less(t, time.Since(begin), soon)
				if err != nil { // it may have ended well just then
					ended(t, err)
				}
				for range w {
				}
				requireNoneLeft(t)
			})
		}
	}
}

// TestCloseWhileSettling: a transaction across members whose decision was sent, and whose member is silent since, does not hold up Close.
func TestCloseWhileSettling(t *testing.T) {
	cluster := newCluster(t, 2)
	primary, other := cluster.Members[0], cluster.Members[1]
	if other.Name() < primary.Name() {
		primary, other = other, primary
	}
	var keys []string
	for i := range cluster.Members {
		keys = append(keys, keyOn(t, cluster, i, "k"))
	}
	var p tap
	cfg := cluster.Config()
	cfg.MemberTimeout = 200 * time.Millisecond
	for i := range cfg.Members {
		if cfg.Members[i].Name == primary.Name() {
			cfg.Members[i].Client = p.dial(t, primary)
		}
	}
	cli, err := metaetcd.New(within(t, patience), cfg)
	require.NoError(t, err)
	for _, key := range keys {
		put(t, cli, key, "before")
	}
	lost, settling := make(chan struct{}), make(chan struct{})
	settles := sync.OnceFunc(func() { close(settling) })
	p.on(func(_ context.Context, req *pb.TxnRequest, send func() error) error {
		if !lands(req) {
			select {
			case <-lost:
				settles()
			default:
			}
			return send()
		}
		primary.Cut()
		defer close(lost)
		return send()
	})
	done := make(chan error, 1)
	go func() {
		_, err := cli.Txn(t.Context()).Then(clientv3.OpPut(keys[0], "after"), clientv3.OpPut(keys[1], "after")).Commit()
		done <- err
	}()
	<-lost
	happened(t, settling, "it is not settled")
	begin := time.Now()
	require.NoError(t, cli.Close())
	require.ErrorIs(t, <-done, metaetcd.ErrUnknownOutcome)
	require.Less(t, time.Since(begin), soon)
	requireNoneLeft(t)
}

// TestCloseWhileReopening: nor does a log that is being opened again, or what waits for it.
func TestCloseWhileReopening(t *testing.T) {
	p := newOverrun(t)
	waits := make(chan error, 4)
	for _, call := range []func() error{
		func() error { _, err := p.Get(t.Context(), p.keys[0]); return err },
		func() error { _, err := p.Get(t.Context(), "k", clientv3.WithPrefix()); return err },
		func() error { _, err := p.Put(t.Context(), p.keys[1], "x", clientv3.WithPrevKV()); return err },
		func() error {
			_, err := p.Compact(t.Context(), 2)
			if errors.Is(err, rpctypes.ErrCompacted) { // it was looked at before the log ended
				return metaetcd.ErrClosed
			}
			return err
		},
	} {
		go func() { waits <- call() }()
	}
	p.resume()
	<-p.opening
	begin := time.Now()
	require.NoError(t, p.Close())
	for range cap(waits) {
		ended(t, <-waits)
	}
	require.Less(t, time.Since(begin), soon)
}

// TestNewUnwinds: New that does not succeed leaves nothing, soon after its context has ended.
func TestNewUnwinds(t *testing.T) {
	cluster := newCluster(t, 2)
	cfg := cluster.Config()
	cli, err := metaetcd.New(within(t, patience), cfg)
	require.NoError(t, err)
	put(t, cli, "k", "v")
	require.NoError(t, cli.Close())
	for _, node := range cluster.Nodes() {
		t.Run(node.Name(), func(t *testing.T) {
			node.Cut()
			defer node.Heal()
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := metaetcd.New(ctx, cfg)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(begin), soon)
			requireNoneLeft(t)
		})
	}
}
