package metaetcd_test

// These examples only compile: running them takes etcd's server, which a user of the package does not depend on. In
// tests/examples they run.

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd"
)

// dial makes a client of one etcd cluster. It connects when it is used; keep-alives make it notice a cluster that is
// cut off in silence.
func dial(endpoints ...string) *clientv3.Client {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	return cli
}

// open opens a meta cluster of two members, or creates it.
func open(ctx context.Context) *metaetcd.Client {
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members: []metaetcd.Member{
			{Name: "ash", Client: dial("127.0.0.1:3379")},
			{Name: "birch", Client: dial("127.0.0.1:4379")},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// The program of the README.
func Example() {
	ctx := context.Background()
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members: []metaetcd.Member{
			{Name: "ash", Client: dial("127.0.0.1:3379")},
			{Name: "birch", Client: dial("127.0.0.1:4379")},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(ctx, "/greeting", "hello"); err != nil {
		log.Fatal(err)
	}
	list, err := c.Get(ctx, "/", clientv3.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revision", list.Header.Revision, "keys", list.Count)
}

// A configuration that does not fit what the meta cluster was created with is refused before anything is written.
func ExampleNew() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // for as long, clusters that are away are waited for
	defer cancel()
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members:     []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}},
	})
	var wrong *metaetcd.TopologyError
	switch {
	case errors.Is(err, metaetcd.ErrMissingMember):
		errors.As(err, &wrong)
		log.Fatalf("add member %s to the configuration", wrong.Member)
	case err != nil:
		log.Fatal(err)
	}
	defer c.Close()
}

// List, then watch from the next revision: nothing is lost in between, and nothing comes twice.
func ExampleClient_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := open(ctx)
	defer c.Close()

	list, err := c.Get(ctx, "/jobs/", clientv3.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	for resp := range c.Watch(ctx, "/jobs/", clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1)) {
		if err := resp.Err(); err != nil {
			log.Fatal(err) // rpctypes.ErrCompacted: list again
		}
		for _, ev := range resp.Events {
			fmt.Println(ev.Kv.ModRevision, ev.Type, string(ev.Kv.Key))
		}
	}
}

// A transaction may compare and write keys wherever they lie: it happens as a whole, at one revision.
func ExampleClient_Txn() {
	ctx := context.Background()
	c := open(ctx)
	defer c.Close()

	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("/stock/apples"), "=", "1")).
		Then(clientv3.OpPut("/stock/apples", "0"), clientv3.OpPut("/cart/anna", "apple")).
		Commit()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Succeeded, resp.Header.Revision)
}

// A key that is there as long as the process is: attached to a lease that is kept alive.
func ExampleClient_KeepAlive() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := open(ctx)
	defer c.Close()

	lease, err := c.Grant(ctx, 10) // seconds
	if err != nil {
		log.Fatal(err)
	}
	alive, err := c.KeepAlive(ctx, lease.ID)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Put(ctx, "/workers/one", "here", clientv3.WithLease(lease.ID)); err != nil {
		log.Fatal(err)
	}
	for range alive { // ends with ctx, or when the lease has ended
	}
}

// Code that takes a *clientv3.Client gets one whose KV, Watcher and Lease are the meta cluster's.
func ExampleClient_Install() {
	c := open(context.Background())
	defer c.Close()

	cli := dial("127.0.0.1:3379") // Status, Endpoints and the rest stay this server's own
	defer cli.Close()
	c.Install(cli)
}

// The same services on a gRPC server are a proxy: any etcd client may talk to it.
func ExampleClient_Register() {
	c := open(context.Background())
	defer c.Close()

	listener, err := net.Listen("tcp", "127.0.0.1:5379")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	c.Register(server)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// Health names who does not answer. Give it a deadline.
func ExampleClient_Health() {
	c := open(context.Background())
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := c.Health(ctx); err != nil {
		log.Print(err)
	}
}
