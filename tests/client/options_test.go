package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestProgressInterval: an idle watcher that asked for progress is told of revisions that concern others.
func TestProgressInterval(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cfg := cluster.Config()
	cfg.ProgressInterval = 20 * time.Millisecond
	cli := open(t, cfg)
	idle := cli.Watch(t.Context(), "idle", clientv3.WithProgressNotify())
	silent := cli.Watch(t.Context(), "idle")
	rev := put(t, cluster.Client(t), "busy", "v")
	for announced := int64(0); announced < rev; {
		resp := takeResponse(t, idle)
		require.True(t, resp.IsProgressNotify())
		require.GreaterOrEqual(t, resp.Header.Revision, announced)
		announced = resp.Header.Revision
		require.LessOrEqual(t, announced, cli.ClosedRevision())
	}
	quiet(t, silent, 0)
}

// TestMemberTxnOps: members that allow few operations in a transaction are written to in batches that fit.
func TestMemberTxnOps(t *testing.T) {
	t.Parallel()
	const ops, writers = 24, 60
	limited := false
	cluster := newCluster(t, 1, metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) {
		if limited {
			cfg.MaxTxnOps = ops
		}
	}))
	require.NoError(t, cluster.Client(t).Close()) // created with the default
	limited = true
	cluster.Members[0].Stop()
	cluster.Members[0].Start()
	cfg := cluster.Config()
	cfg.MemberTxnOps = ops
	cli, reg := measured(t, cfg)
	var g errgroup.Group
	for i := range writers {
		g.Go(func() error {
			for range 3 {
				if _, err := cli.Put(t.Context(), fmt.Sprint("k", i), "v"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Len(t, list(t, cli), writers)
	require.GreaterOrEqual(t, value(t, reg, "metaetcd_operations_per_batch_sum"), 3.0*writers)
	require.Zero(t, value(t, reg, "metaetcd_member_requests_total", "code=InvalidArgument"), "requests that the member refused")
}

// TestMemberTimeout: an answer that takes longer than that is settled on the member's log. Nobody notices but by the time.
func TestMemberTimeout(t *testing.T) {
	t.Parallel()
	const n = 4
	cluster := newCluster(t, 1)
	cfg := cluster.Config()
	cfg.MemberTimeout = 50 * time.Millisecond
	cli, logs := observed(t, cfg)
	put(t, cli, "k", "before")
	cluster.Members[0].Delay(60 * time.Millisecond)
	for i := range n {
		prev := "before"
		if i > 0 {
			prev = fmt.Sprint(i - 1)
		}
		resp, err := cli.Put(within(t, patience), "k", fmt.Sprint(i), clientv3.WithPrevKV())
		require.NoError(t, err)
		require.Equal(t, prev, string(resp.PrevKv.Value))
	}
	cluster.Members[0].Delay(0)
	resp, err := cli.Get(within(t, patience), "k")
	require.NoError(t, err)
	require.EqualValues(t, n+1, resp.Kvs[0].Version, "each write has landed once")
	require.Contains(t, text(t, logs), "settling a member transaction whose answer was lost")
}

// TestCacheEntries: writing a key whose header is remembered needs no read.
func TestCacheEntries(t *testing.T) {
	t.Parallel()
	const keys, rounds = 20, 3
	cluster := newCluster(t, 1)
	small := cluster.Config()
	small.CacheEntries = 1
	remembers, much := measured(t, cluster.Config())
	forgets, little := measured(t, small)
	reads := func(reg *prometheus.Registry) float64 {
		return value(t, reg, "metaetcd_member_requests_total", "method=range")
	}
	opening, openingLittle := reads(much), reads(little)
	for round := range rounds {
		for i := range keys {
			put(t, remembers, fmt.Sprint("a", i), fmt.Sprint(round))
			put(t, forgets, fmt.Sprint("b", i), fmt.Sprint(round))
		}
	}
	for _, kv := range []clientv3.KV{remembers, forgets} {
		resp, err := kv.Get(within(t, patience), "", clientv3.WithPrefix())
		require.NoError(t, err)
		require.Len(t, resp.Kvs, 2*keys)
		for _, kv := range resp.Kvs {
			require.EqualValues(t, rounds, kv.Version)
		}
	}
	require.LessOrEqual(t, reads(much)-opening, float64(keys+1))
	require.Greater(t, reads(little)-openingLittle, float64(2*keys))
}
