package examples

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd"
)

var ctx = context.Background()

// New opens a meta cluster, or creates it. A configuration that does not fit is refused before anything is written.
func Example_new() {
	c, err := metaetcd.New(ctx, config())
	check(err)
	defer c.Close()
	fmt.Println("open")

	cfg := config()
	cfg.Members = cfg.Members[:2]
	_, err = metaetcd.New(ctx, cfg)
	var wrong *metaetcd.TopologyError
	fmt.Println(errors.As(err, &wrong), errors.Is(err, metaetcd.ErrMissingMember), wrong.Member)
	// Output:
	// open
	// true true member-2
}

// One keyspace over all members: the revision of a put is above that of any before it, wherever the keys lie.
func Example_put() {
	c := open()
	defer c.Close()

	first, err := c.Put(ctx, "/colours/red", "ff0000")
	check(err)
	second, err := c.Put(ctx, "/colours/green", "00ff00")
	check(err)
	fmt.Println("ordered:", first.Header.Revision < second.Header.Revision)

	list, err := c.Get(ctx, "/colours/", clientv3.WithPrefix())
	check(err)
	for _, kv := range list.Kvs {
		fmt.Println(string(kv.Key), string(kv.Value))
	}
	// Output:
	// ordered: true
	// /colours/green 00ff00
	// /colours/red ff0000
}

// List, then watch from the next revision: nothing is lost in between, and nothing comes twice.
func Example_watch() {
	c := open()
	defer c.Close()
	_, err := c.Put(ctx, "/jobs/1", "queued")
	check(err)

	list, err := c.Get(ctx, "/jobs/", clientv3.WithPrefix())
	check(err)
	fmt.Println("listed", list.Count)
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.Watch(watching, "/jobs/", clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1))

	_, err = c.Put(ctx, "/jobs/2", "queued")
	check(err)
	_, err = c.Delete(ctx, "/jobs/1")
	check(err)
	for seen := 0; seen < 2; {
		resp := <-events
		check(resp.Err()) // rpctypes.ErrCompacted: list again
		for _, ev := range resp.Events {
			fmt.Println(ev.Type, string(ev.Kv.Key))
			seen++
		}
	}
	// Output:
	// listed 1
	// PUT /jobs/2
	// DELETE /jobs/1
}

// A transaction may compare and write keys wherever they lie: it happens as a whole, at one revision.
func Example_txn() {
	c := open()
	defer c.Close()
	_, err := c.Put(ctx, "/stock/apples", "1")
	check(err)

	for range 2 {
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.Value("/stock/apples"), "=", "1")).
			Then(clientv3.OpPut("/stock/apples", "0"), clientv3.OpPut("/cart/anna", "apple")).
			Commit()
		check(err)
		fmt.Println("sold:", resp.Succeeded)
	}
	stock, err := c.Get(ctx, "/stock/apples")
	check(err)
	cart, err := c.Get(ctx, "/cart/anna")
	check(err)
	fmt.Println("at one revision:", stock.Kvs[0].ModRevision == cart.Kvs[0].ModRevision)
	// Output:
	// sold: true
	// sold: false
	// at one revision: true
}

// A key that is there as long as its lease is kept alive.
func Example_lease() {
	c := open()
	defer c.Close()

	lease, err := c.Grant(ctx, 10) // seconds
	check(err)
	alive, err := c.KeepAlive(ctx, lease.ID)
	check(err)
	_, err = c.Put(ctx, "/workers/one", "here", clientv3.WithLease(lease.ID))
	check(err)
	fmt.Println("alive for", (<-alive).TTL, "s")

	_, err = c.Revoke(ctx, lease.ID)
	check(err)
	left, err := c.Get(ctx, "/workers/", clientv3.WithPrefix())
	check(err)
	fmt.Println("workers:", left.Count)
	// Output:
	// alive for 10 s
	// workers: 0
}

// Code that takes a *clientv3.Client gets one whose KV, Watcher and Lease are the meta cluster's.
func Example_install() {
	c := open()
	defer c.Close()
	cli := dial() // Status, Endpoints and the rest stay this server's own
	defer cli.Close()
	c.Install(cli)

	session, err := concurrency.NewSession(cli)
	check(err)
	defer func() { check(session.Close()) }()
	mutex := concurrency.NewMutex(session, "/lock")
	check(mutex.Lock(ctx))
	fmt.Println("locked")
	check(mutex.Unlock(ctx))
	// Output: locked
}

// The same services on a gRPC server are a proxy: any etcd client may talk to it.
func Example_register() {
	c := open()
	defer c.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := grpc.NewServer()
	c.Register(server)
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()

	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{listener.Addr().String()}})
	check(err)
	_, err = cli.Put(ctx, "/through", "the proxy")
	check(err)
	check(cli.Close())
	server.Stop()
	check(<-served)

	resp, err := c.Get(ctx, "/through")
	check(err)
	fmt.Println(string(resp.Kvs[0].Value))
	// Output: the proxy
}

// Health names who does not answer. Give it a deadline.
func Example_health() {
	c := open()
	defer c.Close()
	fmt.Println("at first:", c.Health(ctx))

	member := cluster.Members[1]
	member.Cut()
	defer member.Heal()
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.Health(soon)
	fmt.Println("it names the member:", strings.Contains(err.Error(), member.Name()))
	// Output:
	// at first: <nil>
	// it names the member: true
}
