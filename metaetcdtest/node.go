package metaetcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Node is one etcd cluster: a member, the coordinator, or a plain etcd. Most often it has a single server.
//
// Methods may be called from any goroutine, but those that fail the test (Start, StartServer, Wipe and the clients) only from the test's
// own, as testing demands. A fault that is begun while a server is stopped shows when it is started again. Servers are numbered from 0,
// in the order of Endpoints.
type Node struct {
	t       testing.TB
	name    string
	servers []*server
	noFsync bool
	opts    *options
}

func newNode(t testing.TB, name string, servers int, dir string, noFsync bool, o *options) *Node {
	t.Helper()
	n := &Node{t: t, name: name, noFsync: noFsync, opts: o}
	binary := o.nextBinary()
	for i := range servers {
		s, err := newServer(fmt.Sprintf("%s-%d", name, i), dir)
		if err != nil {
			n.close()
			t.Fatalf("metaetcdtest: %s: %v", name, err)
		}
		s.binary = binary
		n.servers = append(n.servers, s)
	}
	return n
}

// memoryDir is a directory that needs no disk, where the system has one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "metaetcdtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Name is the node's name in the meta cluster's configuration; plain for an etcd of [Plain].
func (n *Node) Name() string { return n.name }

// Endpoint is the address of the node's first server, host:port, through its proxy. It never changes.
func (n *Node) Endpoint() string { return n.servers[0].client.Addr() }

// Endpoints are the addresses of all servers, host:port, through their proxies. They never change.
func (n *Node) Endpoints() []string {
	var eps []string
	for _, s := range n.servers {
		eps = append(eps, s.client.Addr())
	}
	return eps
}

// Client returns a new etcd client of this node alone, closed when t ends.
func (n *Node) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	return n.dial(t)
}

// DirectClient is like Client, but goes around the proxies: of the node's faults only Stop and StopServer touch it.
func (n *Node) DirectClient(t testing.TB) *clientv3.Client {
	t.Helper()
	byAddr := map[string]*tracker{}
	for _, s := range n.servers {
		byAddr[s.client.Addr()] = s.direct
	}
	return n.dial(t, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		tr, ok := byAddr[addr]
		if !ok {
			return nil, fmt.Errorf("metaetcdtest: %s has no server %s", n.name, addr)
		}
		return tr.dial(ctx, addr)
	}))
}

// dial opens a client that reconnects quickly, unless an option says otherwise.
func (n *Node) dial(t testing.TB, opts ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	retry := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	cfg := clientv3.Config{
		Endpoints:   n.Endpoints(),
		Logger:      n.opts.logger,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 5 * time.Second})},
	}
	for _, adjust := range n.opts.clients {
		adjust(&cfg)
	}
	cfg.DialOptions = append(append(cfg.DialOptions, grpc.WithTransportCredentials(insecure.NewCredentials())), opts...)
	cli, err := clientv3.New(cfg)
	if err != nil {
		t.Fatalf("metaetcdtest: client of %s: %v", n.name, err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// Start starts the servers that are stopped, with the data that is there, and waits until they serve, for a minute at most.
func (n *Node) Start() {
	n.t.Helper()
	if err := n.start(); err != nil {
		n.t.Fatalf("metaetcdtest: start %s: %v", n.name, err)
	}
}

// StartServer starts one server of a node that has several, and waits until it serves, which takes a majority.
func (n *Node) StartServer(i int) {
	n.t.Helper()
	if err := n.startServers(n.servers[i : i+1]); err != nil {
		n.t.Fatalf("metaetcdtest: start %s: %v", n.servers[i].name, err)
	}
}

func (n *Node) start() error { return n.startServers(n.servers) }

func (n *Node) startServers(servers []*server) error {
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			cfg := s.config(n.servers, n.noFsync, n.opts.logger)
			for _, adjust := range n.opts.adjust {
				adjust(cfg)
			}
			errs[i] = s.start(cfg, s.binary)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, s := range servers {
		errs[i] = s.ready()
	}
	return errors.Join(errs...)
}

// Stop stops all servers in order, and waits until they have ended. Connections are reset, and new ones refused until Start. A node that is
// stopped already stays so.
func (n *Node) Stop() {
	var wg sync.WaitGroup
	for _, s := range n.servers {
		wg.Go(s.stop)
	}
	wg.Wait()
}

// StopServer is Stop for one server of a node that has several.
func (n *Node) StopServer(i int) { n.servers[i].stop() }

// KillServer kills one server, as a crash does: it has no time to hand over what it does. It must be a process of its own, see
// WithProcesses and WithEtcdBinaries; so must those of FreezeServer and ThawServer.
func (n *Node) KillServer(i int) {
	n.t.Helper()
	n.processOf(i)
	n.servers[i].end(func(e instance) { e.(*process).kill() })
}

// FreezeServer makes one server hang, to its clients and to its peers: its connections stay open, and it does nothing, until
// ThawServer. Leader waits for it.
func (n *Node) FreezeServer(i int) {
	n.t.Helper()
	if err := freeze(n.processOf(i).cmd.Process); err != nil {
		n.t.Fatalf("metaetcdtest: freeze %s: %v", n.servers[i].name, err)
	}
}

// ThawServer ends FreezeServer.
func (n *Node) ThawServer(i int) {
	n.t.Helper()
	if err := thaw(n.processOf(i).cmd.Process); err != nil {
		n.t.Fatalf("metaetcdtest: thaw %s: %v", n.servers[i].name, err)
	}
}

func (n *Node) processOf(i int) *process {
	n.t.Helper()
	p := n.servers[i].process()
	if p == nil {
		n.t.Fatalf("metaetcdtest: %s is stopped, or no process of its own", n.servers[i].name)
	}
	return p
}

// Wipe removes the data of all servers, which must be stopped: otherwise the test fails. The next Start makes an empty etcd cluster with
// the old cluster id.
func (n *Node) Wipe() {
	n.t.Helper()
	for _, s := range n.servers {
		if err := s.wipe(); err != nil {
			n.t.Fatalf("metaetcdtest: wipe %s: %v", s.name, err)
		}
	}
}

// Leader returns the number of the server that leads the node at present; -1: none does, or it is stopped.
func (n *Node) Leader() int {
	for i, s := range n.servers {
		etcd := s.running()
		if etcd != nil && etcd.leads() {
			return i
		}
	}
	return -1
}

// Delay makes every packet between clients and the node take d longer, in both directions: a round trip takes 2d longer. A second
// Delay replaces the first; zero ends it.
func (n *Node) Delay(d time.Duration) {
	for _, s := range n.servers {
		s.client.SetDelay(d)
	}
}

// Cut separates the node from its clients in silence, like a pulled cable: connections stay open and hang, and so do new
// ones.
func (n *Node) Cut() {
	for _, s := range n.servers {
		s.client.Cut()
	}
}

// CutServer is Cut for one server of a node that has several: to its clients it hangs, while its peers go on with it.
func (n *Node) CutServer(i int) { n.servers[i].client.Cut() }

// HealServer ends CutServer.
func (n *Node) HealServer(i int) { n.servers[i].client.Heal() }

// Refuse separates the node from its clients openly, like a killed process: connections are reset, answers under way are
// lost, and new connections are refused.
func (n *Node) Refuse() {
	for _, s := range n.servers {
		s.client.Refuse()
	}
}

// Heal ends Cut and Refuse. What a Cut held back arrives now.
func (n *Node) Heal() {
	for _, s := range n.servers {
		s.client.Heal()
	}
}

// close stops the node for good.
func (n *Node) close() {
	var wg sync.WaitGroup
	for _, s := range n.servers {
		wg.Go(s.close)
	}
	wg.Wait()
}
