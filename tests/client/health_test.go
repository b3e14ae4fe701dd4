package client

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestRevision(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	a, b := cluster.Client(t), cluster.Client(t)
	for _, cli := range []*metaetcd.Client{a, b} {
		rev, err := cli.Revision(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, rev, "an empty store is at revision 1")
	}
	for i := range 50 {
		written := put(t, a, "k"+string(rune('a'+i%26)), "v")
		require.EqualValues(t, i+2, written)
		rev, err := b.Revision(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, rev, written, "everything acknowledged is covered")
		require.GreaterOrEqual(t, b.ClosedRevision(), rev)
		// It can be read at, and watched from: nothing is missed or seen twice.
		resp, err := b.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.EqualValues(t, min(i+1, 26), resp.Count)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Revision(canceled)
	require.ErrorIs(t, err, context.Canceled)
}

// TestClosedRevision: it follows other processes' writes without being asked, and serializable reads are served at it.
func TestClosedRevision(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	a, b := cluster.Client(t), cluster.Client(t)
	require.EqualValues(t, 1, b.ClosedRevision())
	rev := put(t, a, "k", "v")
	require.Eventually(t, func() bool { return b.ClosedRevision() >= rev }, patience, tick)
	resp, err := b.Get(t.Context(), "k", clientv3.WithSerializable())
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.Equal(t, b.ClosedRevision(), resp.Header.Revision)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	cluster := newCluster(t, 3)
	cli := cluster.Client(t)
	require.NoError(t, cli.Health(within(t, patience)))

	// unwell fails the test unless Health says in time that these nodes, and only these, do not answer.
	unwell := func(ill ...*metaetcdtest.Node) {
		t.Helper()
		begin := time.Now()
		err := cli.Health(within(t, limit))
		require.Less(t, time.Since(begin), limit+soon)
		require.Error(t, err)
		for _, n := range cluster.Nodes() {
			if slices.Contains(ill, n) {
				require.ErrorContains(t, err, n.Name())
			} else {
				require.NotContains(t, err.Error(), n.Name())
			}
		}
	}
	well := func() {
		t.Helper()
		require.Eventually(t, func() bool { return cli.Health(within(t, patience)) == nil }, patience, tick)
	}
	first, second := cluster.Members[0], cluster.Members[1]
	second.Stop()
	unwell(second)
	second.Start()
	well()
	first.Cut()
	second.Refuse()
	unwell(first, second)
	cluster.Coordinator.Refuse()
	unwell(first, second, cluster.Coordinator)
	first.Heal()
	second.Heal()
	require.Eventually(t, func() bool {
		err := cli.Health(within(t, limit))
		return err != nil && !strings.Contains(err.Error(), "member-")
	}, patience, tick)
	unwell(cluster.Coordinator)
	cluster.Coordinator.Cut()
	unwell(cluster.Coordinator)
	cluster.Coordinator.Heal()
	well()
	put(t, cli, "k", "v")
	require.Equal(t, []string{"k=v"}, list(t, cli))
}
