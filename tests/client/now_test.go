package client

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// A watch without a revision begins behind what its process was told has landed, though that may not be closed yet.
func TestWatchBeginsBehindAcknowledgedWrites(t *testing.T) {
	cli := metaetcdtest.New(t, 3).Client(t)
	for i := range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		key := fmt.Sprint("k", i)
		_, err := cli.Put(ctx, key, "before")
		require.NoError(t, err)
		events := cli.Watch(ctx, key)
		put, err := cli.Put(ctx, key, "after")
		require.NoError(t, err)
		resp := <-events
		require.NoError(t, resp.Err())
		require.Equal(t, put.Header.Revision, resp.Events[0].Kv.ModRevision, "round %d", i)
		cancel()
	}
}

// TestWatchFromNowBesideCompactions: another process compacts at the present, again and again, while this one is a moment behind.
// A watch without a revision begins all the same, and brings all that follows its header's revision, unless this process itself is
// overtaken.
func TestWatchFromNowBesideCompactions(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	core, logs := observer.New(zap.WarnLevel)
	cfg := cluster.Config()
	cfg.Logger = zap.New(core)
	cli, other := open(t, cfg), open(t, cluster.DirectConfig())
	overtaken := func() int { return logs.FilterMessage("the merged log ended").Len() }
	ctx, stop := context.WithCancel(within(t, patience))
	var compactor sync.WaitGroup
	compactor.Go(func() {
		for ctx.Err() == nil {
			if resp, err := other.Put(ctx, "other", "v"); err == nil {
				_, _ = other.Compact(ctx, resp.Header.Revision)
			}
		}
	})
	defer compactor.Wait()
	defer stop()
	ends, next := 0, 0 // before the last round, and before this one: a stream whose log has ended may take one more watch
	for i := range 100 {
		ends, next = next, overtaken()
		one, cancel := context.WithCancel(ctx)
		key := fmt.Sprint("k", i)
		before := put(t, cli, key, "before")
		events := cli.Watch(one, key, clientv3.WithCreatedNotify())
		created := takeResponse(t, events)
		require.NoError(t, created.Err())
		require.True(t, created.Created)
		require.GreaterOrEqual(t, created.Header.Revision, before)
		after := put(t, cli, key, "after")
		require.Greater(t, after, created.Header.Revision)
		resp := takeResponse(t, events)
		if resp.Err() != nil {
			require.Eventually(t, func() bool { return overtaken() > ends }, soon, tick, "round %d: %+v", i, resp)
		} else {
			require.Equal(t, after, resp.Events[0].Kv.ModRevision, "round %d", i)
		}
		cancel()
	}
}
