package metaetcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// A test of one's own: the code under test gets a client.
func ExampleNew() {
	t := newExample() // in a test of yours: its *testing.T
	defer t.end()

	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	cli := cluster.Client(t)

	watch := cli.Watch(ctx, "/jobs/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch // it has begun
	_, err := cli.Put(ctx, "/jobs/1", "queued")
	t.check(err)
	for _, ev := range (<-watch).Events {
		fmt.Printf("%s %s\n", ev.Type, ev.Kv.Key)
	}
	// Output: PUT /jobs/1
}

// An ordinary etcd, to compare with.
func ExamplePlain() {
	t := newExample()
	defer t.end()
	cli := metaetcdtest.Plain(t).Client(t)
	resp, err := cli.Put(ctx, "/k", "v")
	t.check(err)
	fmt.Println(resp.Header.Revision)
	// Output: 2
}

func ExampleWithSharding() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 2, metaetcdtest.WithSharding(metaetcd.Sharding{Segments: 2}))
	fmt.Println(cluster.Config().Sharding.Segments)
	// Output: 2
}

func ExampleWithServers() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	fmt.Println(len(n.Endpoints()))
	// Output: 3
}

func ExampleWithCoordinatorServers() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithCoordinatorServers(3))
	fmt.Println(len(cluster.Coordinator.Endpoints()), len(cluster.Members[0].Endpoints()))
	// Output: 3 1
}

// Most tests need no disk.
func ExampleWithUnsafeNoFsync() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync())
	_, err := n.Client(t).Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleWithEtcdConfig() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) { cfg.MaxRequestBytes = 4 << 10 }))
	_, err := n.Client(t).Put(ctx, "/k", strings.Repeat("v", 8<<10))
	fmt.Println(err)
	// Output: etcdserver: request is too large
}

func ExampleWithClientConfig() {
	t := newExample()
	defer t.end()
	seen := map[string]bool{}
	note := func(ctx context.Context, method string, req, resp any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		seen[method] = true
		return next(ctx, method, req, resp, cc, opts...)
	}
	n := metaetcdtest.Plain(t, metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(note))
	}))
	_, err := n.Client(t).Put(ctx, "/k", "v")
	t.check(err)
	fmt.Println(seen["/etcdserverpb.KV/Put"])
	// Output: true
}

// The coordinator runs one version of etcd, and the members in turn this one and others.
func ExampleWithEtcdBinaries() {
	t := newExample()
	defer t.end()
	etcd, err := os.Executable() // this test is one, see ServeProcess; otherwise "/opt/etcd-v3.6.4/etcd" and the like
	t.check(err)
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithEtcdBinaries(etcd, etcd))
	_, err = cluster.Client(t).Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// Servers that are processes of their own can be killed, and frozen. TestMain calls ServeProcess first.
func ExampleWithProcesses() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 1, metaetcdtest.WithProcesses())
	_, err := cluster.Client(t).Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// In TestMain: the test's binary is started again for each server, and does not come back from here then.
func ExampleServeProcess() {
	metaetcdtest.ServeProcess()
	fmt.Println("the tests run")
	// Output: the tests run
}

func ExampleWithLogger() {
	t := newExample()
	defer t.end()
	core, logs := observer.New(zap.InfoLevel)
	metaetcdtest.Plain(t, metaetcdtest.WithLogger(zap.New(core)))
	fmt.Println("silent:", logs.Len() == 0)
	// Output: silent: false
}

func ExampleCluster_Nodes() {
	t := newExample()
	defer t.end()
	for _, n := range metaetcdtest.New(t, 2).Nodes() {
		fmt.Println(n.Name())
	}
	// Output:
	// coordinator
	// member-0
	// member-1
}

// What a program would make of its flags.
func ExampleCluster_Config() {
	t := newExample()
	defer t.end()
	cfg := metaetcdtest.New(t, 2).Config()
	cfg.LogBytes = 1 << 20
	cli, err := metaetcd.New(ctx, cfg)
	t.check(err)
	defer cli.Close()
	_, err = cli.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// Faults do not touch who goes around the proxies.
func ExampleCluster_DirectConfig() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 1)
	cli, err := metaetcd.New(ctx, cluster.DirectConfig())
	t.check(err)
	defer cli.Close()
	cluster.Members[0].Cut()
	defer cluster.Members[0].Heal()
	_, err = cli.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// Every Client is a process of its own.
func ExampleCluster_Client() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 2)
	writer, reader := cluster.Client(t), cluster.Client(t)
	_, err := writer.Put(ctx, "/k", "v")
	t.check(err)
	resp, err := reader.Get(ctx, "/k")
	t.check(err)
	fmt.Println(string(resp.Kvs[0].Value))
	// Output: v
}

func ExampleNode_Name() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 1)
	fmt.Println(cluster.Coordinator.Name(), cluster.Members[0].Name())
	// Output: coordinator member-0
}

// A program that is tested as a process gets the addresses as flags.
func ExampleNode_Endpoint() {
	t := newExample()
	defer t.end()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{metaetcdtest.Plain(t).Endpoint()}})
	t.check(err)
	defer cli.Close()
	_, err = cli.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNode_Endpoints() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3))
	cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()})
	t.check(err)
	defer cli.Close()
	_, err = cli.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// What a meta cluster keeps on a member can be looked at.
func ExampleNode_Client() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 1)
	_, err := cluster.Client(t).Put(ctx, "/k", "v")
	t.check(err)
	resp, err := cluster.Members[0].Client(t).Get(ctx, "/k")
	t.check(err)
	fmt.Println(resp.Count)
	// Output: 1
}

func ExampleNode_DirectClient() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	direct := n.DirectClient(t)
	n.Cut()
	_, err := direct.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

// A server that is started again has its data and its address.
func ExampleNode_Start() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	_, err := cli.Put(ctx, "/k", "v")
	t.check(err)
	n.Stop()
	n.Start()
	resp, err := cli.Get(ctx, "/k")
	t.check(err)
	fmt.Println(string(resp.Kvs[0].Value))
	// Output: v
}

func ExampleNode_Stop() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	n.Stop()
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := cli.Put(soon, "/k", "v")
	fmt.Println(err != nil)
	// Output: true
}

// Two of three servers are enough.
func ExampleNode_StopServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	n.StopServer(0)
	_, err := n.Client(t).Get(ctx, "/k")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNode_StartServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	n.StopServer(0)
	n.StartServer(0)
	cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()[:1]})
	t.check(err)
	defer cli.Close()
	_, err = cli.Get(ctx, "/k")
	fmt.Println(err)
	// Output: <nil>
}

// What was acknowledged outlives a crash.
func ExampleNode_KillServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithProcesses())
	cli := n.Client(t)
	_, err := cli.Put(ctx, "/k", "v")
	t.check(err)
	n.KillServer(0)
	n.Start()
	resp, err := cli.Get(ctx, "/k")
	t.check(err)
	fmt.Println(string(resp.Kvs[0].Value))
	// Output: v
}

// A server that hangs, to its clients and to its peers: the other two go on without it.
func ExampleNode_FreezeServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithProcesses())
	n.FreezeServer(0)
	cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()[1:]})
	t.check(err)
	defer cli.Close()
	_, err = cli.Get(ctx, "/k") // waits for another leader, if it was the one
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNode_ThawServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithProcesses())
	cli := n.Client(t)
	n.FreezeServer(0)
	n.ThawServer(0)
	_, err := cli.Get(ctx, "/k")
	fmt.Println(err)
	// Output: <nil>
}

// What happens to the code under test when the clock of the meta cluster is lost with all its data?
func ExampleNode_Wipe() {
	t := newExample()
	defer t.end()
	cluster := metaetcdtest.New(t, 2)
	cli := cluster.Client(t)
	before, err := cli.Put(ctx, "/jobs/1", "queued")
	t.check(err)

	cluster.Coordinator.Stop()
	cluster.Coordinator.Wipe()
	cluster.Coordinator.Start()

	after, err := cli.Put(ctx, "/jobs/2", "queued")
	t.check(err)
	fmt.Println(before.Header.Revision < after.Header.Revision)
	// Output: true
}

func ExampleNode_Leader() {
	t := newExample()
	defer t.end()
	fmt.Println(metaetcdtest.Plain(t).Leader())
	// Output: 0
}

// A node that is far away.
func ExampleNode_Delay() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	n.Delay(50 * time.Millisecond) // in each direction
	begin := time.Now()
	_, err := cli.Put(ctx, "/k", "v")
	t.check(err)
	fmt.Println(time.Since(begin) >= 100*time.Millisecond)
	// Output: true
}

func ExampleNode_Cut() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	n.Cut()
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := cli.Put(soon, "/k", "v")
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

// What hung while the node was cut off goes on.
func ExampleNode_Heal() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	n.Cut()
	done := make(chan error)
	go func() {
		_, err := cli.Put(ctx, "/k", "v")
		done <- err
	}()
	n.Heal()
	fmt.Println(<-done)
	// Output: <nil>
}

// One of several servers hangs.
func ExampleNode_CutServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	n.CutServer(0)
	cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()[1:]})
	t.check(err)
	defer cli.Close()
	_, err = cli.Put(ctx, "/k", "v")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNode_HealServer() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t, metaetcdtest.WithServers(3), metaetcdtest.WithUnsafeNoFsync())
	n.CutServer(0)
	n.HealServer(0)
	cli, err := clientv3.New(clientv3.Config{Endpoints: n.Endpoints()[:1]})
	t.check(err)
	defer cli.Close()
	_, err = cli.Get(ctx, "/k")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNode_Refuse() {
	t := newExample()
	defer t.end()
	n := metaetcdtest.Plain(t)
	cli := n.Client(t)
	n.Refuse()
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := cli.Put(soon, "/k", "v")
	fmt.Println(err != nil)
	// Output: true
}
