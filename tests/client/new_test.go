package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestManyCreateTheSameCluster(t *testing.T) {
	t.Parallel()
	const processes = 4
	cluster := newCluster(t, 3)
	var wg sync.WaitGroup
	clients := make([]*metaetcd.Client, processes)
	errs := make([]error, processes)
	for i := range processes {
		cfg := cluster.Config()
		wg.Go(func() { clients[i], errs[i] = metaetcd.New(within(t, patience), cfg) })
	}
	wg.Wait()
	for i, cli := range clients {
		require.NoError(t, errs[i])
		defer func() { require.NoError(t, cli.Close()) }()
	}
	var ids []uint64
	for i, cli := range clients {
		resp, err := cli.Put(t.Context(), fmt.Sprint("k", i), "v")
		require.NoError(t, err)
		require.EqualValues(t, 2+i, resp.Header.Revision)
		ids = append(ids, resp.Header.ClusterId)
	}
	require.Len(t, slices.Compact(ids), 1)
	for _, cli := range clients {
		require.Equal(t, []string{"k0=v", "k1=v", "k2=v", "k3=v"}, list(t, cli))
	}
}

func TestReopen(t *testing.T) {
	cluster := newCluster(t, 3)
	cfg := cluster.Config()
	first, err := metaetcd.New(t.Context(), cfg)
	require.NoError(t, err)
	resp, err := first.Put(t.Context(), "k", "1")
	require.NoError(t, err)
	require.NoError(t, first.Close())
	requireNoneLeft(t)

	// The order of members means nothing, and the clients that were borrowed are still good.
	slices.Reverse(cfg.Members)
	again := open(t, cfg)
	require.Equal(t, []string{"k=1"}, list(t, again))
	got, err := again.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, resp.Header.Revision, got.Kvs[0].ModRevision)
	require.Equal(t, resp.Header.ClusterId, got.Header.ClusterId)
	require.NotEqual(t, resp.Header.MemberId, got.Header.MemberId, "each client is a member of its own in headers")
	require.Greater(t, put(t, again, "k", "2"), resp.Header.Revision)
}

// TestNewNeedsEveryCluster: New keeps asking until its context ends, says who is missing, and leaves nothing behind.
func TestNewNeedsEveryCluster(t *testing.T) {
	const limit = 2 * time.Second
	cluster := newCluster(t, 2)
	direct := directClients(t, cluster.Nodes()...)
	check := func(t *testing.T, name string, missing *metaetcdtest.Node, fault func(*metaetcdtest.Node)) {
		t.Run(name, func(t *testing.T) {
			cfg := cluster.Config()
			before := nativeRevisions(t, direct)
			fault(missing)
			defer missing.Heal()
			ctx := within(t, limit)
			begin := time.Now()
			cli, err := metaetcd.New(ctx, cfg)
			took := time.Since(begin)
			require.Nil(t, cli)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, missing.Name())
			require.Less(t, took, limit+soon)
			requireNoneLeft(t)
			require.Equal(t, before, nativeRevisions(t, direct), "something was written")
		})
	}
	check(t, "creating, the coordinator is silent", cluster.Coordinator, (*metaetcdtest.Node).Cut)
	check(t, "creating, a member refuses", cluster.Members[1], (*metaetcdtest.Node).Refuse)
	cli := cluster.Client(t)
	put(t, cli, "k", "v")
	require.NoError(t, cli.Close())
	check(t, "opening, the coordinator refuses", cluster.Coordinator, (*metaetcdtest.Node).Refuse)
	check(t, "opening, a member is silent", cluster.Members[1], (*metaetcdtest.Node).Cut)
	require.Equal(t, []string{"k=v"}, list(t, cluster.Client(t)))
}

// TestNewEndsWithItsContext cuts New short at every stage.
func TestNewEndsWithItsContext(t *testing.T) {
	cluster := newCluster(t, 3)
	cfg := cluster.Config()
	t.Run("canceled before", func(t *testing.T) {
		before := nativeRevisions(t, directClients(t, cluster.Nodes()...))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := metaetcd.New(ctx, cfg)
		require.ErrorIs(t, err, context.Canceled)
		requireNoneLeft(t)
		require.Equal(t, before, nativeRevisions(t, directClients(t, cluster.Nodes()...)))
	})
	t.Run("canceled on the way", func(t *testing.T) {
		opened := false
		for d := time.Millisecond; !opened; d += d/4 + time.Millisecond {
			begin := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(d, cancel)
			cli, err := metaetcd.New(ctx, cfg)
			require.Less(t, time.Since(begin), d+soon)
			if opened = err == nil; opened {
				require.NoError(t, cli.Close())
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			stop.Stop()
			cancel()
			requireNoneLeft(t)
		}
	})
	put(t, cluster.Client(t), "k", "v")
}
