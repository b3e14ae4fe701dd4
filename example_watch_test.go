package metaetcd_test

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// List, then watch from the next revision: nothing is lost in between, and nothing comes twice.
func ExampleClient_Watch() {
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
		check(resp.Err()) // after rpctypes.ErrCompacted, list again
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

// A progress notification says that everything up to its revision was delivered.
func ExampleClient_RequestProgress() {
	c := open()
	defer c.Close()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.Watch(watching, "/jobs/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events // it has begun
	put, err := c.Put(ctx, "/jobs/1", "queued")
	check(err)

	check(c.RequestProgress(watching)) // the context chooses the watches
	for resp := range events {
		for _, ev := range resp.Events {
			fmt.Println(ev.Type, string(ev.Kv.Key))
		}
		if resp.IsProgressNotify() {
			fmt.Println("progress:", resp.Header.Revision >= put.Header.Revision)
			break
		}
	}
	// Output:
	// PUT /jobs/1
	// progress: true
}
