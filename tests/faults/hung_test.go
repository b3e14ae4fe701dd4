package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// hungFor is less than any request is given that the hung server got first: 10 s on the coordinator, as long as the caller has on a
// member. It is what a busy machine may need for an election and the rest.
const hungFor = 9 * time.Second

// TestCoordinatorServerHangs: to its clients, one of the coordinator's three servers hangs, each in turn; the leader, too.
func TestCoordinatorServerHangs(t *testing.T) {
	c := metaetcdtest.New(t, 1, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithCoordinatorServers(3))
	cli := c.Client(t)
	for i := range 3 {
		c.Coordinator.CutServer(i)
		for n := range 12 {
			within(t, hungFor, func(ctx context.Context) error {
				_, err := cli.Put(ctx, fmt.Sprint("k", n), "v")
				return err
			})
			within(t, hungFor, func(ctx context.Context) error {
				_, err := cli.Get(ctx, "k", clientv3.WithPrefix())
				return err
			})
		}
		c.Coordinator.HealServer(i)
	}
}

// TestMemberServerHangs: to its clients, one of a member's three servers hangs, each in turn. Reads are answered by the others, also
// where the stream came from that one.
func TestMemberServerHangs(t *testing.T) {
	c := metaetcdtest.New(t, 1, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithServers(3))
	cli := c.Client(t)
	for i := range 3 {
		_, err := cli.Put(t.Context(), "k", "v")
		require.NoError(t, err)
		c.Members[0].CutServer(i)
		for range 6 {
			within(t, 2*hungFor, func(ctx context.Context) error {
				_, err := cli.Get(ctx, "k")
				return err
			})
			within(t, 2*hungFor, func(ctx context.Context) error {
				_, err := cli.Get(ctx, "k", clientv3.WithPrefix())
				return err
			})
		}
		c.Members[0].HealServer(i)
	}
}

// within demands that a request is served in time.
func within(t *testing.T, d time.Duration, request func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), workload.Patience)
	defer cancel()
	start := time.Now()
	require.NoError(t, request(ctx))
	require.Less(t, time.Since(start), d)
}
