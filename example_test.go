package metaetcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd"
)

// The program of the README.
func Example() {
	ctx := context.Background()
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members:     []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}, {Name: "birch", Client: dial("127.0.0.1:4379")}},
	})
	check(err)
	defer c.Close()
	_, err = c.Put(ctx, "/greeting", "hello")
	check(err)
	list, err := c.Get(ctx, "/", clientv3.WithPrefix())
	check(err)
	for _, kv := range list.Kvs {
		fmt.Printf("%s = %s\n", kv.Key, kv.Value)
	}
	// Output: /greeting = hello
}

// The first New creates the meta cluster. A later one, in this process or in another, must name the same members.
func ExampleNew() {
	cfg := metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members:     []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}, {Name: "birch", Client: dial("127.0.0.1:4379")}},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a cluster that is away is waited for until then
	defer cancel()
	c, err := metaetcd.New(ctx, cfg)
	check(err)
	defer c.Close()

	cfg.Members = cfg.Members[:1]
	_, err = metaetcd.New(ctx, cfg)
	fmt.Println(err)
	// Output: metaetcd: member birch: the member is missing from the configuration: want [ash birch]: got [ash]
}

// What a Config leaves out has a default.
func ExampleConfig() {
	registry := prometheus.NewRegistry()
	c, err := metaetcd.New(ctx, metaetcd.Config{
		Coordinator:   dial("127.0.0.1:2379"),
		Members:       []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}},
		Sharding:      metaetcd.Sharding{Segments: 2},
		Logger:        zap.NewNop(),
		Metrics:       registry,
		MemberTimeout: 5 * time.Second, // the members are far away
	})
	check(err)
	defer c.Close()

	families, err := registry.Gather()
	check(err)
	for _, f := range families {
		if f.GetName() == "metaetcd_watchers" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	// Output: metaetcd_watchers 0
}

// Keys that share their first two segments lie on one member, so that lists and transactions below them need no other. The sharding
// is recorded when the meta cluster is created.
func ExampleSharding() {
	cfg := metaetcd.Config{
		Coordinator: dial("127.0.0.1:2379"),
		Members:     []metaetcd.Member{{Name: "ash", Client: dial("127.0.0.1:3379")}, {Name: "birch", Client: dial("127.0.0.1:4379")}},
		Sharding:    metaetcd.Sharding{Segments: 2}, // "/pods/" of "/pods/default/web"
	}
	c, err := metaetcd.New(ctx, cfg)
	check(err)
	check(c.Close())

	cfg.Sharding.Segments = 3
	_, err = metaetcd.New(ctx, cfg)
	fmt.Println(errors.Is(err, metaetcd.ErrSharding))
	// Output: true
}

// Code that takes a *clientv3.Client, like etcd's own recipes, gets one whose KV, Watcher and Lease are the meta cluster's.
func ExampleClient_Install() {
	c := open()
	defer c.Close()
	cli := dial("127.0.0.1:3379") // Endpoints, Status and the rest stay this server's own
	defer cli.Close()
	c.Install(cli)

	session, err := concurrency.NewSession(cli)
	check(err)
	defer func() { check(session.Close()) }()
	mutex := concurrency.NewMutex(session, "/locks/printer")
	check(mutex.Lock(ctx))
	held, err := c.Get(ctx, "/locks/printer/", clientv3.WithPrefix())
	check(err)
	fmt.Println("holders:", held.Count)
	check(mutex.Unlock(ctx))
	// Output: holders: 1
}

// The same services on a gRPC server are a proxy: any etcd client, of any language, may talk to it.
func ExampleClient_Register() {
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

// Health names the clusters with something amiss. Give it a deadline.
func ExampleClient_Health() {
	ash := dial("127.0.0.1:3379")
	c, err := metaetcd.New(ctx, metaetcd.Config{Coordinator: dial("127.0.0.1:2379"), Members: []metaetcd.Member{{Name: "ash", Client: ash}}})
	check(err)
	defer c.Close()
	fmt.Println("at first:", c.Health(ctx))

	etcds[ash].SetDown(true)
	defer etcds[ash].SetDown(false)
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if amiss, ok := errors.AsType[*metaetcd.MemberError](c.Health(soon)); ok {
		fmt.Println("later:", amiss.Member)
	}
	// Output:
	// at first: <nil>
	// later: ash
}

// Close the Client, and then the clients that it has borrowed.
func ExampleClient_Close() {
	c := open()
	check(c.Close())
	_, err := c.Put(ctx, "/late", "x")
	fmt.Println(errors.Is(err, metaetcd.ErrClosed))
	// Output: true
}

// All that is read at one revision belongs together, however many calls it takes.
func ExampleClient_Revision() {
	c := open()
	defer c.Close()
	_, err := c.Put(ctx, "/left", "1")
	check(err)
	_, err = c.Put(ctx, "/right", "1")
	check(err)

	rev, err := c.Revision(ctx)
	check(err)
	_, err = c.Txn(ctx).Then(clientv3.OpPut("/left", "2"), clientv3.OpPut("/right", "2")).Commit()
	check(err)
	for _, key := range []string{"/left", "/right"} {
		resp, err := c.Get(ctx, key, clientv3.WithRev(rev))
		check(err)
		fmt.Println(key, string(resp.Kvs[0].Value))
	}
	// Output:
	// /left 1
	// /right 1
}

// The closed revision follows what is written. A linearizable read waits for it.
func ExampleClient_ClosedRevision() {
	c := open()
	defer c.Close()
	put, err := c.Put(ctx, "/k", "v")
	check(err)
	_, err = c.Get(ctx, "/", clientv3.WithPrefix())
	check(err)
	fmt.Println(c.ClosedRevision() >= put.Header.Revision)
	// Output: true
}
