package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

var fruit = []string{"cherry", "apple", "grape", "banana", "fig", "elder", "date", "kiwi", "lemon", "mango", "olive", "papaya"}

// spread writes from both clients and asks the members themselves what they hold.
func (t *tour) spread(ctx context.Context) error {
	var line []string
	for i, name := range fruit {
		user := []*client{t.alice, t.bob}[i%2]
		resp, err := user.Put(ctx, "/fruit/"+name, "from "+user.name)
		if err != nil {
			return err
		}
		line = append(line, fmt.Sprintf("%s@%d", name, resp.Header.Revision))
	}
	t.say("Alice and Bob put in turn:  %s", strings.Join(line[:len(line)/2], "  "))
	t.say("                            %s", strings.Join(line[len(line)/2:], "  "))
	for i, m := range t.cluster.members {
		resp, err := t.alice.borrowed[i+1].Get(ctx, "/fruit/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		t.say("etcd %-6s holds %s", m.name, keys(resp))
	}
	return nil
}

// keys are the last segments of what was read.
func keys(resp *clientv3.GetResponse) string {
	var names []string
	for _, kv := range resp.Kvs {
		k := string(kv.Key)
		names = append(names, k[strings.LastIndexByte(k, '/')+1:])
	}
	return strings.Join(names, " ")
}

func (t *tour) list(ctx context.Context) error {
	resp, err := t.bob.Get(ctx, "/fruit/", clientv3.WithPrefix(), clientv3.WithLimit(5))
	if err != nil {
		return err
	}
	t.say("The first five of %d at revision %d: %s", resp.Count, resp.Header.Revision, keys(resp))
	return nil
}

// race lets eight workers of both clients increment one counter.
func (t *tour) race(ctx context.Context) error {
	const workers, increments, counter = 8, 20, "/counter"
	if _, err := t.alice.Put(ctx, counter, "0"); err != nil {
		return err
	}
	var lost atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for w := range workers {
		user := []*client{t.alice, t.bob}[w%2]
		g.Go(func() error {
			for range increments {
				retries, err := increment(gctx, user, counter)
				if err != nil {
					return err
				}
				lost.Add(retries)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	resp, err := t.bob.Get(ctx, counter)
	if err != nil {
		return err
	}
	t.say("%d workers increment one counter %d times each, %d attempts lose a race and are repeated:", workers, increments, lost.Load())
	t.say("the counter stands at %s, and its version is %d.", resp.Kvs[0].Value, resp.Kvs[0].Version)
	return expect(string(resp.Kvs[0].Value) == strconv.Itoa(workers*increments), "increments were lost")
}

// increment retries until the counter did not change between reading and writing it.
func increment(ctx context.Context, user *client, counter string) (retries int64, err error) {
	for ; ; retries++ {
		now, err := user.Get(ctx, counter)
		if err != nil {
			return retries, err
		}
		n, err := strconv.Atoi(string(now.Kvs[0].Value))
		if err != nil {
			return retries, err
		}
		resp, err := user.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(counter), "=", now.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(counter, strconv.Itoa(n+1))).
			Commit()
		if err != nil || resp.Succeeded {
			return retries, err
		}
	}
}

// watch starts at the next revision while both clients write.
func (t *tour) watch(ctx context.Context) error {
	const orders = 12 // of each
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, err := t.bob.Revision(ctx)
	if err != nil {
		return err
	}
	events := t.bob.Watch(ctx, "/orders/", clientv3.WithPrefix(), clientv3.WithRev(now+1))
	g, gctx := errgroup.WithContext(ctx)
	for _, user := range []*client{t.alice, t.bob} {
		g.Go(func() error {
			for i := range orders {
				if _, err := user.Put(gctx, fmt.Sprintf("/orders/%s-%02d", user.name, i), user.name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var seen []*clientv3.Event
	for resp := range events {
		if err := resp.Err(); err != nil {
			return err
		}
		if seen = append(seen, resp.Events...); len(seen) == 2*orders {
			break
		}
	}
	order, ascending := "", len(seen) == 2*orders
	for i, ev := range seen {
		order += strings.ToUpper(string(ev.Kv.Value[:1]))
		ascending = ascending && (i == 0 || seen[i-1].Kv.ModRevision < ev.Kv.ModRevision)
	}
	if !ascending {
		return errors.New("the watch is out of order")
	}
	t.say("Alice and Bob write %d orders at once. Bob's watch: %s, revisions %d to %d, ascending.",
		2*orders, order, seen[0].Kv.ModRevision, seen[len(seen)-1].Kv.ModRevision)
	return nil
}

// history reads the fruit as they were when half of them were there.
func (t *tour) history(ctx context.Context) error {
	half := "/fruit/" + fruit[len(fruit)/2-1]
	at, err := t.alice.Get(ctx, half)
	if err != nil {
		return err
	}
	if _, err := t.alice.Delete(ctx, half); err != nil {
		return err
	}
	rev := at.Kvs[0].ModRevision
	then, err := t.bob.Get(ctx, "/fruit/", clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		return err
	}
	now, err := t.bob.Get(ctx, "/fruit/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	t.say("Revision %d:   %s", rev, keys(then))
	t.say("Revision %d: %s (Alice has just eaten the %s)", now.Header.Revision, keys(now), fruit[len(fruit)/2-1])
	return expect(int(then.Count) == len(fruit)/2 && int(now.Count) == len(fruit)-1, "history differs from what was written")
}

func expect(ok bool, otherwise string) error {
	if !ok {
		return errors.New(otherwise)
	}
	return nil
}
