package metaetcd_test

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func ExampleClient_Grant() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60) // seconds
	check(err)
	_, err = c.Put(ctx, "/workers/one", "here", clientv3.WithLease(lease.ID))
	check(err)
	fmt.Println(lease.TTL)
	// Output: 60
}

// The keys of a lease go with it, wherever they lie.
func ExampleClient_Revoke() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60)
	check(err)
	for _, key := range []string{"/workers/one", "/workers/two"} {
		_, err = c.Put(ctx, key, "here", clientv3.WithLease(lease.ID))
		check(err)
	}
	_, err = c.Revoke(ctx, lease.ID)
	check(err)
	left, err := c.Get(ctx, "/workers/", clientv3.WithPrefix())
	check(err)
	fmt.Println("left:", left.Count)
	// Output: left: 0
}

func ExampleClient_TimeToLive() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60)
	check(err)
	for _, key := range []string{"/workers/two", "/workers/one"} {
		_, err = c.Put(ctx, key, "here", clientv3.WithLease(lease.ID))
		check(err)
	}
	resp, err := c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	check(err)
	fmt.Printf("of %d s, keys %s\n", resp.GrantedTTL, resp.Keys)
	// Output: of 60 s, keys [/workers/one /workers/two]
}

func ExampleClient_Leases() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60)
	check(err)
	resp, err := c.Leases(ctx)
	check(err)
	for _, l := range resp.Leases {
		fmt.Println(l.ID == lease.ID)
	}
	// Output: true
}

// A key that is there as long as this process is.
func ExampleClient_KeepAlive() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60)
	check(err)
	_, err = c.Put(ctx, "/workers/one", "here", clientv3.WithLease(lease.ID))
	check(err)

	working, cancel := context.WithCancel(ctx)
	alive, err := c.KeepAlive(working, lease.ID)
	check(err)
	fmt.Println("alive for", (<-alive).TTL, "s")
	cancel()
	for range alive { // read it until it is closed: with the context, or when the lease has ended
	}
	// Output: alive for 60 s
}

func ExampleClient_KeepAliveOnce() {
	c := open()
	defer c.Close()
	lease, err := c.Grant(ctx, 60)
	check(err)
	resp, err := c.KeepAliveOnce(ctx, lease.ID)
	check(err)
	fmt.Println(resp.TTL)
	// Output: 60
}
