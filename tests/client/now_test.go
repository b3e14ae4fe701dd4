package client

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

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
