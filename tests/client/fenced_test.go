package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestOneMemberDown: a write is in flight to a member that does not answer, so that nobody knows whether its revision will
// ever be there. Single keys of other members are read and written all the same; what concerns all members waits.
func TestOneMemberDown(t *testing.T) {
	t.Parallel()
	t.Run("silent", func(t *testing.T) { oneMemberDown(t, (*metaetcdtest.Node).Cut, (*metaetcdtest.Node).Heal) })
	t.Run("stopped", func(t *testing.T) { oneMemberDown(t, (*metaetcdtest.Node).Stop, (*metaetcdtest.Node).Start) })
}

func oneMemberDown(t *testing.T, fall, rise func(*metaetcdtest.Node)) {
	cluster := newCluster(t, 3)
	a, reg := measured(t, cluster.Config())
	b := cluster.Client(t)
	down, dead := cluster.Members[2], keyOn(t, cluster, 2, "k")
	keys := []string{keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k")}
	var base int64
	for _, key := range append(keys, dead) {
		base = put(t, a, key, "before")
	}
	require.Zero(t, value(t, reg, "metaetcd_fenced_reads_total"))
	everything := b.Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(base+1))

	fall(down)
	var inFlight sync.WaitGroup
	var resp *clientv3.PutResponse
	var err error
	ctx := within(t, patience)
	inFlight.Go(func() { resp, err = a.Put(ctx, dead, "during") })
	// It has its stamp as soon as the others' revisions leave one out.
	missing := base + 1
	for put(t, b, keys[0], "meanwhile") == missing {
		missing++
	}

	for _, value := range []string{"during", "last"} {
		for _, key := range keys {
			put(t, b, key, value)
		}
		requireLoneReads(t, []clientv3.KV{a, b}, keys, value)
	}
	requireLoneReads(t, []clientv3.KV{a}, []string{keyOn(t, cluster, 0, "absent")}, "")
	require.EqualValues(t, 5, value(t, reg, "metaetcd_fenced_reads_total"))
	require.Positive(t, value(t, reg, "metaetcd_pending_stamps"))

	// What needs all members waits. The closed revision must not pass what may still come.
	_, rangeErr := a.Get(within(t, 100*time.Millisecond), "", clientv3.WithPrefix())
	require.ErrorIs(t, rangeErr, context.DeadlineExceeded)
	_, revisionErr := b.Revision(within(t, 100*time.Millisecond))
	require.ErrorIs(t, revisionErr, context.DeadlineExceeded)
	require.Less(t, b.ClosedRevision(), missing)

	rise(down)
	inFlight.Wait()
	require.NoError(t, err)
	want := []string{dead + "=during", keys[0] + "=last", keys[1] + "=last"}
	for _, kv := range []clientv3.KV{a, b} {
		require.ElementsMatch(t, want, list(t, kv))
	}
	// All events come now, each once and in order, that of the member that was down in its place.
	seen := map[string]string{}
	for highest := base; highest < resp.Header.Revision || len(seen) < len(want); {
		got := takeResponse(t, everything)
		require.NoError(t, got.Err())
		for _, ev := range got.Events {
			require.Greater(t, ev.Kv.ModRevision, highest)
			highest = ev.Kv.ModRevision
			seen[string(ev.Kv.Key)] = string(ev.Kv.Value)
			if string(ev.Kv.Key) == dead {
				require.Equal(t, resp.Header.Revision, highest)
			}
		}
	}
	// Reads are as usual again. One that takes long is fenced, whatever it waits for.
	deadline := time.Now().Add(patience)
	for before := -1.0; before != value(t, reg, "metaetcd_fenced_reads_total"); {
		require.True(t, time.Now().Before(deadline), "every read is fenced")
		before = value(t, reg, "metaetcd_fenced_reads_total")
		requireLoneReads(t, []clientv3.KV{a}, keys, "last")
	}
}

// requireLoneReads reads single keys, all at once, and fails the test unless each is answered, and right; a key without a value is
// absent.
func requireLoneReads(t *testing.T, kvs []clientv3.KV, keys []string, value string) {
	t.Helper()
	var g errgroup.Group
	ctx := within(t, patience)
	for i, kv := range kvs {
		for _, key := range keys {
			g.Go(func() error {
				resp, err := kv.Get(ctx, key)
				switch {
				case err != nil:
				case value == "" && resp.Count == 0:
				case resp.Count != 1 || string(resp.Kvs[0].Value) != value || resp.Header.Revision < resp.Kvs[0].ModRevision:
					err = fmt.Errorf("got %v at %d, want %s", resp.Kvs, resp.Header.Revision, value)
				}
				if err != nil {
					err = fmt.Errorf("client %d, %s: %w", i, key, err)
				}
				return err
			})
		}
	}
	require.NoError(t, g.Wait())
}

// TestSlowClockFencesNothing: a read that waits for the coordinator, and for nothing else, is not fenced: that would ask the coordinator
// again, and cost a revision.
func TestSlowClockFencesNothing(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli, reg := measured(t, cluster.Config())
	rev := put(t, cli, "k", "v")
	require.Eventually(t, func() bool { return cli.ClosedRevision() >= rev }, patience, tick)
	cluster.Coordinator.Delay(400 * time.Millisecond)
	resp, err := cli.Get(within(t, patience), "k")
	require.NoError(t, err)
	require.Equal(t, rev, resp.Header.Revision)
	cluster.Coordinator.Delay(0)
	require.Zero(t, value(t, reg, "metaetcd_fenced_reads_total"))
	require.Equal(t, rev+1, put(t, cli, "k", "w"))
}
