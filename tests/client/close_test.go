package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// calls are all that can be asked of a client.
var calls = map[string]func(ctx context.Context, cli *metaetcd.Client) error{
	"Get": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Get(ctx, "k")
		return err
	},
	"Get serializable": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Get(ctx, "k", clientv3.WithSerializable())
		return err
	},
	"Get all": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Get(ctx, "", clientv3.WithPrefix())
		return err
	},
	"GetStream": func(ctx context.Context, cli *metaetcd.Client) error {
		stream, err := cli.GetStream(ctx, "", clientv3.WithPrefix())
		if err == nil {
			_, err = clientv3.GetStreamToGetResponse(stream)
		}
		return err
	},
	"Put": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Put(ctx, "k", "v")
		return err
	},
	"Delete": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Delete(ctx, "k")
		return err
	},
	"Txn": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("l"), ">", 0)).Then(clientv3.OpPut("l", "v")).Else(clientv3.OpPut("l", "1")).Commit()
		return err
	},
	"Txn that reads": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Txn(ctx).Then(clientv3.OpGet("k"), clientv3.OpGet("l")).Commit()
		return err
	},
	"Compact": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Compact(ctx, cli.ClosedRevision())
		return err
	},
	"Revision": func(ctx context.Context, cli *metaetcd.Client) error {
		_, err := cli.Revision(ctx)
		return err
	},
	"Health": func(ctx context.Context, cli *metaetcd.Client) error { return cli.Health(ctx) },
}

func TestClose(t *testing.T) {
	cluster := newCluster(t, 2)
	cfg := cluster.Config()
	cli, err := metaetcd.New(t.Context(), cfg)
	require.NoError(t, err)
	put(t, cli, "k", "v")
	w := cli.Watch(t.Context(), "k", clientv3.WithRev(1))
	take(t, w, 1)
	require.NoError(t, cli.Close())
	requireNoneLeft(t)
	requireEnded(t, w)
	require.NoError(t, cli.Close(), "Close is idempotent")

	for name, call := range calls {
		t.Run(name, func(t *testing.T) { require.ErrorIs(t, call(within(t, patience), cli), metaetcd.ErrClosed) })
	}
	requireEnded(t, cli.Watch(t.Context(), "k"))
	require.Error(t, cli.RequestProgress(t.Context()))
	require.EqualValues(t, 2, cli.ClosedRevision(), "what was known stays known")

	// What was borrowed is still open.
	require.Equal(t, []string{"k=v"}, list(t, open(t, cfg)))
}

// TestCloseUnderLoad: whatever a client is asked while it is closed, by several at once, ends soon: with an answer, with ErrClosed
// or, if it takes longer than Close waits, with ErrUnknownOutcome. What was acknowledged is there.
func TestCloseUnderLoad(t *testing.T) {
	cluster := newCluster(t, 2)
	cfg := cluster.Config()
	survivor := cluster.Client(t)
	for round := range 5 {
		cli, err := metaetcd.New(t.Context(), cfg)
		require.NoError(t, err)
		var wg sync.WaitGroup
		unexpected := make(chan error, 1000)
		var acknowledged atomic.Int64
		for name, call := range calls {
			if name == "Compact" { // refuses what is compacted already
				continue
			}
			for range 3 {
				wg.Go(func() {
					for {
						if err := call(t.Context(), cli); err != nil {
							if !errors.Is(err, metaetcd.ErrClosed) && !errors.Is(err, metaetcd.ErrUnknownOutcome) {
								unexpected <- fmt.Errorf("%s: %w", name, err)
							}
							return
						}
					}
				})
			}
		}
		counter := fmt.Sprint("counter", round)
		wg.Go(func() {
			for {
				if _, err := cli.Put(t.Context(), counter, "v"); err != nil {
					return
				}
				acknowledged.Add(1)
			}
		})
		for range 4 {
			w := cli.Watch(t.Context(), "", clientv3.WithPrefix())
			wg.Go(func() {
				for range w {
				}
			})
		}
		require.Eventually(t, func() bool { return acknowledged.Load() >= int64(20*round) }, patience, tick)
		begin := time.Now()
		for range 3 {
			wg.Go(func() {
				if err := cli.Close(); err != nil {
					unexpected <- fmt.Errorf("close: %w", err)
				}
			})
		}
		wg.Wait()
		require.Less(t, time.Since(begin), soon)
		close(unexpected)
		for err := range unexpected {
			require.NoError(t, err)
		}
		resp, err := survivor.Get(t.Context(), counter)
		require.NoError(t, err)
		if n := acknowledged.Load(); n > 0 {
			require.Contains(t, []int64{n, n + 1}, resp.Kvs[0].Version)
		}
	}
}

// TestCloseDuringAnOutage: Close does not wait for long for those who do not answer, and what waits for them ends.
func TestCloseDuringAnOutage(t *testing.T) {
	var sent requests
	cluster := newCluster(t, 2, sent.seen())
	for _, node := range []*metaetcdtest.Node{cluster.Coordinator, cluster.Members[1]} {
		t.Run(node.Name(), func(t *testing.T) {
			cfg := cluster.Config()
			cfg.MemberTimeout = patience // that is not what ends the requests
			cli, err := metaetcd.New(within(t, patience), cfg)
			require.NoError(t, err)
			keys := []string{keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k")}
			var rev int64
			for _, key := range keys {
				rev = put(t, cli, key, "before")
			}
			w := cli.Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
			node.Cut()
			defer node.Heal()
			asked := sent.next(node)
			var wg sync.WaitGroup
			errs := make(chan error, 100)
			for range 5 {
				for _, key := range keys {
					wg.Go(func() {
						_, err := cli.Put(t.Context(), key, "during")
						errs <- err
					})
				}
				wg.Go(func() {
					_, err := cli.Get(t.Context(), "", clientv3.WithPrefix())
					errs <- err
				})
			}
			happened(t, asked, "nobody asks the one that is away")
			begin := time.Now()
			require.NoError(t, cli.Close())
			wg.Wait()
			require.Less(t, time.Since(begin), soon)
			close(errs)
			for err := range errs {
				if err != nil && !errors.Is(err, metaetcd.ErrUnknownOutcome) { // of writes that were sent
					require.ErrorIs(t, err, metaetcd.ErrClosed)
				}
			}
			for range w { // what landed on the other member before Close may still come
			}
			requireNoneLeft(t)
		})
	}
}
