package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// ledger remembers the revisions that writers got.
type ledger struct {
	mu        sync.Mutex
	revisions []int64
	longest   time.Duration
}

func (l *ledger) add(rev int64, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revisions = append(l.revisions, rev)
	l.longest = max(l.longest, took)
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.revisions)
}

// write puts until stop is closed. Its revisions must ascend.
func (l *ledger) write(ctx context.Context, user *client, stop <-chan struct{}) error {
	for last := int64(0); ; {
		select {
		case <-stop:
			return nil
		default:
		}
		begin := time.Now()
		resp, err := user.Put(ctx, "/log/"+user.name, fmt.Sprint(last))
		if err != nil {
			return err
		}
		if resp.Header.Revision <= last {
			return fmt.Errorf("revision %d after %d", resp.Header.Revision, last)
		}
		last = resp.Header.Revision
		l.add(last, time.Since(begin))
	}
}

// disaster wipes the coordinator while both clients write.
func (t *tour) disaster(ctx context.Context) error {
	const before, after = 200, 200 // writes
	var l ledger
	stop := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	for _, user := range []*client{t.alice, t.bob} {
		g.Go(func() error { return l.write(gctx, user, stop) })
	}
	err := func() error {
		defer close(stop)
		if err := await(gctx, func() bool { return l.count() >= before }); err != nil {
			return err
		}
		t.cluster.coordinator.stop()
		if err := t.cluster.coordinator.wipe(); err != nil {
			return err
		}
		lost := l.count()
		if err := t.cluster.coordinator.start(); err != nil {
			return err
		}
		t.say("After %d writes the coordinator is stopped and its data removed. It comes back empty.", lost)
		return await(gctx, func() bool { return l.count() >= lost+after })
	}()
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	slices.Sort(l.revisions)
	unique := len(slices.Compact(slices.Clone(l.revisions))) == len(l.revisions)
	t.say("All %d writes succeeded; the longest took %s. No revision was given twice, and none went back.",
		len(l.revisions), l.longest.Round(time.Millisecond))
	return expect(unique, "a revision was given twice")
}

// await polls until ok or ctx ends.
func await(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// throughput lets the meta cluster and the plain etcd take turns, with a single client each.
func (t *tour) throughput(ctx context.Context) (err error) {
	if err := t.bob.Close(); err != nil {
		return err
	}
	const rounds = 3
	plain, err := t.cluster.plain.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	var plainRate, metaRate float64
	for i := range rounds + 1 {
		p, err := puts(ctx, plain, t.slice)
		if err != nil {
			return err
		}
		m, err := puts(ctx, t.alice, t.slice)
		if err != nil {
			return err
		}
		if i > 0 { // the first warms up
			plainRate += p / rounds
			metaRate += m / rounds
		}
	}
	t.say("plain etcd    %6.0f puts of 256 bytes per second", plainRate)
	t.say("meta cluster  %6.0f, %.2f times plain's", metaRate, metaRate/plainRate)
	t.say("Here five etcds share one machine and one disk. make bench-scale gives each member a disk of its own.")
	return nil
}

// puts is the rate at which 128 writers overwrite a thousand keys.
func puts(ctx context.Context, kv clientv3.KV, d time.Duration) (perSecond float64, err error) {
	const writers, keys, size = 128, 1000, 256
	value := strings.Repeat("v", size)
	var n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range writers {
		g.Go(func() error {
			for time.Since(begin) < d {
				if _, err := kv.Put(ctx, fmt.Sprintf("/load/%03d", n.Add(1)%keys), value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), err
}
