package metaetcdtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// openTimeout bounds metaetcd.New in Client: creation is some hundred requests, one after the other, and other tests may keep the
// machine busy.
const openTimeout = 3 * time.Minute

// Cluster is the etcd clusters of one meta cluster. It keeps nothing of the meta cluster itself: that is created by the first
// metaetcd.New on its Config. Its methods may be called from the test's own goroutine, as those of testing.TB that fail a test.
type Cluster struct {
	// Coordinator is named coordinator.
	Coordinator *Node
	// Members are named member-0, member-1, … They do not change.
	Members []*Node

	t    testing.TB
	opts *options
}

// New starts a coordinator and the given number of members, at least one, and waits until they serve, for a minute at most.
// Everything is stopped and removed when the test ends. The coordinator's data is kept in memory (/dev/shm) where the system has it,
// the members' in t.TempDir.
func New(t testing.TB, members int, opts ...Option) *Cluster {
	t.Helper()
	if members < 1 {
		t.Fatalf("metaetcdtest: a meta cluster of %d members", members)
	}
	o := newOptions(append([]Option{binariesFromEnv}, opts...))
	c := &Cluster{t: t, opts: o, Coordinator: newNode(t, "coordinator", o.coordinators, memoryDir(t), true, o)}
	for i := range members {
		c.Members = append(c.Members, newNode(t, fmt.Sprintf("member-%d", i), o.servers, t.TempDir(), o.noFsync, o))
	}
	nodes := c.Nodes()
	t.Cleanup(func() { closeNodes(nodes) })
	startNodes(t, nodes)
	return c
}

// Plain starts one ordinary etcd, without a meta cluster: what tests and benchmarks compare with. It is stopped and removed when the test
// ends. Options that are about meta clusters do nothing here, and neither does the environment variable of [WithEtcdBinaries].
func Plain(t testing.TB, opts ...Option) *Node {
	t.Helper()
	o := newOptions(opts)
	n := newNode(t, "plain", o.servers, t.TempDir(), o.noFsync, o)
	t.Cleanup(func() { closeNodes([]*Node{n}) })
	startNodes(t, []*Node{n})
	return n
}

// Nodes returns the coordinator and then the members, in a slice of the caller's.
func (c *Cluster) Nodes() []*Node {
	return append([]*Node{c.Coordinator}, c.Members...)
}

// Config returns the configuration of the meta cluster with etcd clients of its own, closed when the test ends. Each
// metaetcd.New on a Config of its own is what another process would be.
func (c *Cluster) Config() metaetcd.Config {
	c.t.Helper()
	return c.config(c.t, (*Node).Client)
}

// DirectConfig is like Config, with clients that go around the proxies: of the faults of a Node only Stop and StopServer touch them. It is
// meant for benchmarks, and for a witness that looks on while others suffer.
func (c *Cluster) DirectConfig() metaetcd.Config {
	c.t.Helper()
	return c.config(c.t, (*Node).DirectClient)
}

func (c *Cluster) config(t testing.TB, client func(*Node, testing.TB) *clientv3.Client) metaetcd.Config {
	t.Helper()
	cfg := metaetcd.Config{
		Coordinator: client(c.Coordinator, t),
		Sharding:    c.opts.sharding,
		Logger:      c.opts.logger,
	}
	for _, m := range c.Members {
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: m.Name(), Client: client(m, t)})
	}
	return cfg
}

// Client opens the meta cluster as a new process would, with etcd clients of its own, and closes it when the test t, which may be a subtest,
// ends. It may be closed earlier. Opening it fails the test after three minutes.
func (c *Cluster) Client(t testing.TB) *metaetcd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	cli, err := metaetcd.New(ctx, c.config(t, (*Node).Client))
	if err != nil {
		t.Fatalf("metaetcdtest: open the meta cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			t.Errorf("metaetcdtest: close the meta cluster: %v", err)
		}
	})
	return cli
}

// startNodes starts all nodes at once.
func startNodes(t testing.TB, nodes []*Node) {
	t.Helper()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.start() })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("metaetcdtest: start %s: %v", nodes[i].Name(), err)
		}
	}
}

// closeNodes stops all nodes at once and releases their addresses.
func closeNodes(nodes []*Node) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(n.close)
	}
	wg.Wait()
}
