package metaetcd_test

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The revision of a put is above that of any before it, wherever the keys lie.
func ExampleClient_Put() {
	c := open()
	defer c.Close()
	first, err := c.Put(ctx, "/colours/red", "ff0000")
	check(err)
	second, err := c.Put(ctx, "/colours/red", "ee0000", clientv3.WithPrevKV())
	check(err)
	fmt.Println("it was", string(second.PrevKv.Value))
	fmt.Println("ordered:", first.Header.Revision < second.Header.Revision)
	// Output:
	// it was ff0000
	// ordered: true
}

// A range is read over all members, as it is at one revision.
func ExampleClient_Get() {
	c := open()
	defer c.Close()
	for _, key := range []string{"/colours/red", "/colours/green", "/colours/blue"} {
		_, err := c.Put(ctx, key, "")
		check(err)
	}
	resp, err := c.Get(ctx, "/colours/", clientv3.WithPrefix(), clientv3.WithLimit(2))
	check(err)
	for _, kv := range resp.Kvs {
		fmt.Println(string(kv.Key))
	}
	fmt.Println(len(resp.Kvs), "of", resp.Count)
	// Output:
	// /colours/blue
	// /colours/green
	// 2 of 3
}

// A range that is too large for one answer comes in pieces, all of one revision.
func ExampleClient_GetStream() {
	c := open()
	defer c.Close()
	for i := range 20 {
		_, err := c.Put(ctx, fmt.Sprintf("/jobs/%02d", i), "queued")
		check(err)
	}
	stream, err := c.GetStream(ctx, "/jobs/", clientv3.WithPrefix())
	check(err)
	keys := 0
	for resp := range stream {
		check(resp.Err())
		keys += len(resp.Kvs)
	}
	fmt.Println(keys)
	// Output: 20
}

func ExampleClient_Delete() {
	c := open()
	defer c.Close()
	for _, key := range []string{"/jobs/1", "/jobs/2"} {
		_, err := c.Put(ctx, key, "done")
		check(err)
	}
	resp, err := c.Delete(ctx, "/jobs/", clientv3.WithPrefix())
	check(err)
	fmt.Println(resp.Deleted)
	// Output: 2
}

// A transaction may compare and write keys wherever they lie: it takes effect as a whole, at one revision.
func ExampleClient_Txn() {
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

func ExampleClient_Do() {
	c := open()
	defer c.Close()
	for _, op := range []clientv3.Op{clientv3.OpPut("/k", "v"), clientv3.OpGet("/k"), clientv3.OpDelete("/k")} {
		resp, err := c.Do(ctx, op)
		check(err)
		switch {
		case op.IsPut():
			fmt.Println("put")
		case op.IsGet():
			fmt.Println("got", string(resp.Get().Kvs[0].Value))
		case op.IsDelete():
			fmt.Println("deleted", resp.Del().Deleted)
		}
	}
	// Output:
	// put
	// got v
	// deleted 1
}

// Some process has to compact now and then. What is older cannot be read any more, by any process.
func ExampleClient_Compact() {
	c := open()
	defer c.Close()
	first, err := c.Put(ctx, "/k", "1")
	check(err)
	second, err := c.Put(ctx, "/k", "2")
	check(err)

	_, err = c.Compact(ctx, second.Header.Revision)
	check(err)
	_, err = c.Get(ctx, "/k", clientv3.WithRev(first.Header.Revision))
	fmt.Println(errors.Is(err, rpctypes.ErrCompacted))
	// Output: true
}
