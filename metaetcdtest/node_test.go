package metaetcdtest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

const (
	// hung is how long a request must have waited for the node to count as cut off.
	hung = 300 * time.Millisecond
	// patience bounds waits that must succeed. Only a failure takes that long.
	patience = time.Minute
)

func newNode(t *testing.T) *metaetcdtest.Node {
	t.Helper()
	return metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync())
}

func put(ctx context.Context, cli *clientv3.Client, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := cli.Put(ctx, "k", "v")
	return err
}

// drain reads a connection to its end and returns why it ended.
func drain(conn net.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, conn)
	return errors.Join(err, conn.Close())
}

func identity(t *testing.T, cli *clientv3.Client) (clusterID, memberID uint64) {
	t.Helper()
	resp, err := cli.Get(t.Context(), "k")
	require.NoError(t, err)
	return resp.Header.ClusterId, resp.Header.MemberId
}

func TestRestartKeepsDataAndIdentity(t *testing.T) {
	n := newNode(t)
	cli := n.Client(t)
	require.NoError(t, put(t.Context(), cli, patience))
	cluster, member := identity(t, cli)
	endpoint := n.Endpoint()

	n.Stop()
	require.Error(t, put(t.Context(), cli, hung), "a stopped node answered")
	n.Start()

	resp, err := cli.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.Equal(t, endpoint, n.Endpoint())
	againCluster, againMember := identity(t, cli)
	require.Equal(t, cluster, againCluster)
	require.Equal(t, member, againMember)
}

func TestWipeKeepsOnlyIdentity(t *testing.T) {
	n := newNode(t)
	cli := n.Client(t)
	require.NoError(t, put(t.Context(), cli, patience))
	cluster, _ := identity(t, cli)

	n.Stop()
	n.Wipe()
	n.Start()

	resp, err := cli.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Empty(t, resp.Kvs)
	require.EqualValues(t, 1, resp.Header.Revision)
	require.Equal(t, cluster, resp.Header.ClusterId)
}

func TestNodesAreDifferentClusters(t *testing.T) {
	a, _ := identity(t, newNode(t).Client(t))
	b, _ := identity(t, newNode(t).Client(t))
	require.NotEqual(t, a, b)
}

func TestStopEndsWatchesAtOnce(t *testing.T) {
	n := newNode(t)
	for _, cli := range []*clientv3.Client{n.Client(t), n.DirectClient(t)} {
		created := <-cli.Watch(t.Context(), "k", clientv3.WithCreatedNotify())
		require.True(t, created.Created)
	}
	start := time.Now()
	n.Stop()
	require.Less(t, time.Since(start), 6*time.Second, "an open watch held the server up") // etcd waits seven seconds for it
}

func TestDelay(t *testing.T) {
	n := newNode(t)
	cli, direct := n.Client(t), n.DirectClient(t)
	require.NoError(t, put(t.Context(), cli, patience))
	require.NoError(t, put(t.Context(), direct, patience))

	const delay = time.Second
	n.Delay(delay)
	start := time.Now()
	require.NoError(t, put(t.Context(), cli, patience))
	require.GreaterOrEqual(t, time.Since(start), 2*delay)

	start = time.Now()
	require.NoError(t, put(t.Context(), direct, patience))
	require.Less(t, time.Since(start), 2*delay, "the direct client went through the proxy")

	n.Delay(0)
	start = time.Now()
	require.NoError(t, put(t.Context(), cli, patience))
	require.Less(t, time.Since(start), 2*delay)
}

func TestCutHangsAndHealDelivers(t *testing.T) {
	n := newNode(t)
	cli, direct := n.Client(t), n.DirectClient(t)
	require.NoError(t, put(t.Context(), cli, patience))
	watch := cli.Watch(t.Context(), "k")
	require.NoError(t, put(t.Context(), cli, patience))
	<-watch

	n.Cut()
	require.ErrorIs(t, put(t.Context(), cli, hung), context.DeadlineExceeded)
	require.ErrorIs(t, put(t.Context(), n.Client(t), hung), context.DeadlineExceeded, "a new connection got through")
	require.NoError(t, put(t.Context(), direct, patience))
	answer := make(chan error, 1)
	go func() { answer <- put(context.Background(), cli, patience) }()
	select {
	case resp := <-watch:
		t.Fatalf("a watch response passed the cut: %v", resp)
	case <-time.After(hung):
	}

	n.Heal()
	require.NoError(t, <-answer)
	require.NotEmpty(t, (<-watch).Events)
}

func TestRefuseResetsAndHealAccepts(t *testing.T) {
	n := newNode(t)
	cli := n.Client(t)
	require.NoError(t, put(t.Context(), cli, patience))
	addr := n.Endpoint()
	open, err := net.Dial("tcp", addr)
	require.NoError(t, err)

	n.Refuse()
	// On the sockets themselves: gRPC may go on redialing for as long as the request's context lets it.
	require.ErrorIs(t, drain(open), syscall.ECONNRESET)
	late, err := net.Dial("tcp", addr)
	if err == nil {
		err = drain(late)
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Error(t, put(t.Context(), cli, hung))

	n.Heal()
	require.Eventually(t, func() bool { return put(t.Context(), cli, 5*time.Second) == nil }, patience, 10*time.Millisecond)
}

func TestLeaderMoves(t *testing.T) {
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	require.Len(t, n.Endpoints(), 3)
	cli := n.Client(t)
	require.NoError(t, put(t.Context(), cli, patience))

	var old int
	require.Eventually(t, func() bool { old = n.Leader(); return old >= 0 }, patience, 10*time.Millisecond)
	n.StopServer(old)
	require.Eventually(t, func() bool {
		return n.Leader() != old && put(t.Context(), cli, 5*time.Second) == nil
	}, patience, 50*time.Millisecond)
	n.StartServer(old)
}
