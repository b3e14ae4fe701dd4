package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// endValue is the value of the last put that a watcher waits for.
const endValue = "end"

// open opens the target with a count of what is received.
func open(ctx context.Context, c *rig.Cluster) (*rig.Side, *atomic.Int64, error) {
	target, received := c.Target, new(atomic.Int64)
	target.Received = received
	side, err := target.Open(ctx)
	return side, received, err
}

// outageOf has n watchers of everything, stops the last member, writes on the others, and measures from its return on until all watchers have
// everything. A plain etcd's watchers begin when all is written.
func (o *options) outageOf(ctx context.Context, c *rig.Cluster, n int) (_ *row, err error) {
	side, received, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, side.Close()) }()
	first, err := side.Put(ctx, prefix+"begin", "")
	if err != nil {
		return nil, err
	}
	all := func(int) (string, []clientv3.OpOption) { return prefix, []clientv3.OpOption{clientv3.WithPrefix()} }
	if side.Meta == nil {
		if err := o.write(c, o.keysBut(nil), func() error { return wait(ctx, o.outage) }); err != nil {
			return nil, err
		}
		if _, err := side.Put(ctx, prefix+"end", endValue); err != nil {
			return nil, err
		}
		begun, before := time.Now(), received.Load()
		events, err := watch(ctx, side, n, first.Header.Revision+1, all, endValue)()
		return &row{took: time.Since(begun), received: received.Load() - before, text: fmt.Sprintf("%d events each", events/n)}, err
	}
	lost := c.Member(o.members - 1)
	there, lostKeys, err := o.placement(ctx, side, lost)
	if err != nil {
		return nil, err
	}
	done := watch(ctx, side, n, 0, all, endValue)
	heap := startHeap()
	var begun time.Time
	var before, during, closed int64
	ended := make(chan error, 1)
	err = o.write(c, there, func() error {
		if err := freeze(lost.PID); err != nil {
			return err
		}
		go func() {
			_, err := side.Put(ctx, lostKeys[0], "held up")
			ended <- err
		}()
		err := wait(ctx, o.outage)
		during = received.Load()
		return err
	})
	if err == nil {
		begun, before, closed = time.Now(), received.Load(), side.Meta.ClosedRevision()
	}
	if err := errors.Join(err, thaw(lost.PID)); err != nil {
		return nil, err
	}
	if err := <-ended; err != nil {
		return nil, err
	}
	end, err := side.Put(ctx, prefix+"end", endValue)
	if err != nil {
		return nil, err
	}
	events, err := done()
	took, after := time.Since(begun), received.Load()-before
	return &row{took: took, received: after, text: fmt.Sprintf("%d events each, %d revisions waited, %.0f MiB received before, heap at most %.0f MiB, memory of the process %.0f MiB",
		events/n, end.Header.Revision-closed, float64(during)/(1<<20), float64(heap.stop())/(1<<20), float64(resident())/(1<<20))}, err
}

// write has another process write while something is done.
func (o *options) write(c *rig.Cluster, keys []string, while func() error) error {
	writer, err := rig.Spawn(roleWrite, writeConfig{Target: c.Target, Keys: keys, Rate: o.rate, Size: o.size})
	if err != nil {
		return err
	}
	return errors.Join(while(), writer.Stop())
}

// keysBut returns the keys without some.
func (o *options) keysBut(without []string) (left []string) {
	for i := range keys {
		if key := keyOf(i); !slices.Contains(without, key) {
			left = append(left, key)
		}
	}
	return left
}

// placement puts every key once, and returns which do not lie on a member, and which do.
func (o *options) placement(ctx context.Context, side *rig.Side, m *rig.Server) (elsewhere, there []string, err error) {
	value := string(make([]byte, o.size))
	for _, key := range o.keysBut(nil) {
		if _, err := side.Put(ctx, key, value); err != nil {
			return nil, nil, err
		}
	}
	cli, err := rig.Dial(ctx, m.Endpoint)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, cli.Close()) }()
	resp, err := cli.Get(ctx, prefix+"keys/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, nil, err
	}
	for _, kv := range resp.Kvs {
		there = append(there, string(kv.Key))
	}
	return o.keysBut(there), there, nil
}

// past measures n watchers that begin before the last events, in a process that was not there when they came: each of one key, or all of
// everything.
func (o *options) past(ctx context.Context, c *rig.Cluster, n int, narrow bool) (_ *row, err error) {
	before, err := fill(ctx, c.Target, o.behind)
	if err != nil {
		return nil, err
	}
	side, received, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, side.Close()) }()
	of := func(i int) (string, []clientv3.OpOption) {
		if narrow {
			return keyOf(i % keys), nil
		}
		return prefix, []clientv3.OpOption{clientv3.WithPrefix()}
	}
	for i := range min(n, keys) {
		key, _ := of(i)
		if !narrow {
			key = prefix + "end"
		}
		if _, err := side.Put(ctx, key, endValue); err != nil {
			return nil, err
		}
		if !narrow {
			break
		}
	}
	begun, already := time.Now(), received.Load()
	events, err := watch(ctx, side, n, before+1, of, endValue)()
	return &row{took: time.Since(begun), received: received.Load() - already, text: fmt.Sprintf("%d events each", events/n)}, err
}

// firstGet measures the first read of an old revision, by a process that was not there then, in the middle of the history.
func (o *options) firstGet(ctx context.Context, c *rig.Cluster) (_ *row, err error) {
	before, err := fill(ctx, c.Target, o.revisions)
	if err != nil {
		return nil, err
	}
	side, received, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, side.Close()) }()
	if _, err := side.Get(ctx, keyOf(0)); err != nil { // connections, and what else there is to begin
		return nil, err
	}
	begun, already := time.Now(), received.Load()
	_, err = side.Get(ctx, keyOf(1), clientv3.WithRev(before+int64(o.revisions/2)))
	first := time.Since(begun)
	var more []time.Duration
	for i := 2; i < 12 && err == nil; i++ {
		at := time.Now()
		_, err = side.Get(ctx, keyOf(i), clientv3.WithRev(before+int64(i*o.revisions/13)))
		more = append(more, time.Since(at))
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(more)
	return &row{took: first, received: received.Load() - already, text: fmt.Sprintf("ten others %s … %s ms", ms(more[0]), ms(more[len(more)-1]))}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
