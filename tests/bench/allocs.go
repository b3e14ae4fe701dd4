package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	allocWriters = 128
	// allocOps is how many puts or events are counted, and as many before them are not.
	allocOps = 30_000
)

// allocation is what one operation costs the process that performs it.
type allocation struct{ objects, bytes float64 }

// allocTest measures a side; every etcd is a process of its own.
type allocTest struct {
	name    string
	measure func(ctx context.Context, target rig.Target, s *rig.Side) (allocation, error)
}

var allocTests = []allocTest{
	{"allocations per put, 128 writers", allocsPerPut},
	{"allocations per event, 1 watcher", allocsPerEvent},
}

// runAllocations prints what puts and events cost the client's heap. For the meta cluster, a put includes the process's share
// in following the members: it sees its own writes come by.
func runAllocations(ctx context.Context, o *options, out *table) error {
	layout := o.Layout
	layout.Start = rig.Process
	for _, t := range allocTests {
		if !o.Run.MatchString(t.name) {
			continue
		}
		var results pair[allocation]
		for _, s := range o.sidesRun() {
			r, err := o.measureAllocs(ctx, s, layout, t)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", t.name, s, err)
			}
			results[s] = r
		}
		out.allocRow(t.name, o.sidesRun(), results)
	}
	return nil
}

func (o *options) measureAllocs(ctx context.Context, s side, layout rig.Layout, t allocTest) (_ allocation, err error) {
	cluster, opened, err := o.open(ctx, s, layout)
	if err != nil {
		return allocation{}, err
	}
	defer func() { err = errors.Join(err, opened.Close(), cluster.Stop()) }()
	return t.measure(ctx, cluster.Target, opened)
}

// allocsOf counts what f, which performs allocOps operations, allocates.
func allocsOf(f func() error) (allocation, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := f(); err != nil {
		return allocation{}, err
	}
	runtime.ReadMemStats(&after)
	return allocation{
		objects: float64(after.Mallocs-before.Mallocs) / allocOps,
		bytes:   float64(after.TotalAlloc-before.TotalAlloc) / allocOps,
	}, nil
}

func allocsPerPut(ctx context.Context, _ rig.Target, s *rig.Side) (allocation, error) {
	puts := func() error { return putMany(ctx, s) }
	if err := puts(); err != nil {
		return allocation{}, err
	}
	return allocsOf(puts)
}

// putMany puts allocOps times, over a tenth as many keys.
func putMany(ctx context.Context, s *rig.Side) error {
	return load.Each(ctx, allocWriters, allocOps, func(ctx context.Context, i int) error {
		_, err := s.Put(ctx, key(i%(allocOps/10)), value)
		return err
	})
}

// allocsPerEvent watches what another process writes.
func allocsPerEvent(ctx context.Context, target rig.Target, s *rig.Side) (allocation, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.Watch(ctx, key(0)[:len(key(0))-6], clientv3.WithPrefix())
	putter, err := rig.Spawn(rolePutter, target)
	if err != nil {
		return allocation{}, err
	}
	defer func() { err = errors.Join(err, putter.Stop()) }()
	receive := func() error { return receiveMany(events) }
	if err := receive(); err != nil {
		return allocation{}, err
	}
	return allocsOf(receive)
}

// receiveMany takes allocOps events.
func receiveMany(events clientv3.WatchChan) error {
	timeout := time.After(time.Minute)
	for n := 0; n < allocOps; {
		select {
		case resp, ok := <-events:
			if !ok || resp.Err() != nil {
				return fmt.Errorf("watch ended: %w", resp.Err())
			}
			n += len(resp.Events)
		case <-timeout:
			return errors.New("events are missing")
		}
	}
	return nil
}

// rolePutter is a process that puts twice as often as allocOps, and a bit, into a target.
const rolePutter = "putter"

func putterRole(ctx context.Context, config []byte) (string, func() error, error) {
	var target rig.Target
	if err := json.Unmarshal(config, &target); err != nil {
		return "", nil, err
	}
	s, err := target.Open(ctx)
	if err != nil {
		return "", nil, err
	}
	go func() {
		for range 3 {
			if err := putMany(ctx, s); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "bench: putter:", err)
				return
			}
		}
	}()
	return "writing", s.Close, nil
}
