package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	// writers is how many puts may be on their way at once.
	writers = 256
	keys    = 1000
	// notifyEvery is how often the watched key is put.
	notifyEvery = 100 * time.Millisecond
	// opening bounds how many processes start at the same time.
	opening = 8
)

// result is one row.
type result struct {
	Rate               float64 // puts per second that were acknowledged
	Puts, Events, Gets load.Hist
	Received           float64 // bytes per second and nearly idle process
	counts                     // of all processes; fenced: as the writer saw them
}

// run measures the writer beside n nearly idle processes, on servers of their own.
func (o *options) run(ctx context.Context, side string, n int) (_ *result, err error) {
	cluster, err := o.servers(side)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	dir, err := os.MkdirTemp("", "metaetcd-processes-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	reg := prometheus.NewRegistry()
	target := cluster.Target
	target.Metrics = reg
	writer, err := target.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	if _, err := writer.Put(ctx, readKey, "value"); err != nil {
		return nil, err
	}
	idle, err := spawn(ctx, cluster.Target, dir, n)
	if err != nil {
		return nil, err
	}
	r, err := o.write(ctx, writer, reg)
	stopped := stop(idle)
	if err = errors.Join(err, stopped); err != nil {
		return nil, err
	}
	return r, r.collect(dir, n)
}

func (o *options) servers(side string) (*rig.Cluster, error) {
	if side == rig.Plain {
		return o.layout.Plain()
	}
	return o.layout.Meta(o.members)
}

func resultFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("%d.json", i)) }

// spawn starts processes and waits until they watch.
func spawn(ctx context.Context, target rig.Target, dir string, n int) ([]*rig.Child, error) {
	children := make([]*rig.Child, n)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(opening)
	for i := range n {
		g.Go(func() (err error) {
			if gctx.Err() == nil {
				children[i], err = rig.Spawn(roleIdle, idleConfig{Target: target, Result: resultFile(dir, i)})
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, stop(children))
	}
	return children, nil
}

func stop(children []*rig.Child) error {
	errs := make([]error, len(children))
	var wg sync.WaitGroup
	for i, c := range children {
		if c != nil {
			wg.Go(func() { errs[i] = c.Stop() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// write offers the writer its puts. The first event of the watched key tells the others that it counts.
func (o *options) write(ctx context.Context, s *rig.Side, reg *prometheus.Registry) (*result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	offered := make(chan time.Time, writers)
	var mu sync.Mutex
	r := &result{}
	done, counting := 0, false
	g, gctx := errgroup.WithContext(ctx)
	for w := range writers {
		value := string(make([]byte, o.size))
		i := w
		g.Go(func() error {
			for at := range offered {
				i = (i + writers) % keys
				if _, err := s.Put(gctx, fmt.Sprintf("/processes/keys/%04d", i), value); err != nil {
					return fmt.Errorf("put: %w", err)
				}
				mu.Lock()
				if counting {
					done++
					r.Puts.Add(time.Since(at))
				}
				mu.Unlock()
			}
			return nil
		})
	}
	offer(gctx, offered, o.rate, o.warmup)
	before, err := countsOf(reg)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	counting = true
	mu.Unlock()
	begun := time.Now()
	measuring, stopMeasuring := context.WithCancel(gctx)
	g.Go(func() error { return notify(measuring, s) })
	offer(gctx, offered, o.rate, o.duration)
	mu.Lock()
	counting = false
	r.Rate = float64(done) / time.Since(begun).Seconds()
	mu.Unlock()
	stopMeasuring()
	close(offered)
	if err := g.Wait(); err != nil {
		return nil, err
	}
	after, err := countsOf(reg)
	r.counts = after.minus(before)
	return r, err
}

// offer offers so many puts a second for a time. What nobody takes, while all are busy, is not offered again.
func offer(ctx context.Context, to chan<- time.Time, rate int, d time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begun := time.Now()
	for given := 0; time.Since(begun) < d; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(begun).Seconds() * float64(rate)); given < due; given++ {
			select {
			case to <- time.Now():
			default:
			}
		}
	}
}

// notify puts the watched key every now and then, with the time.
func notify(ctx context.Context, s *rig.Side) error {
	tick := time.NewTicker(notifyEvery)
	defer tick.Stop()
	for {
		now := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		if _, err := s.Put(context.WithoutCancel(ctx), watchedKey, string(now)); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// collect adds what the nearly idle processes have seen.
func (r *result) collect(dir string, n int) error {
	for i := range n {
		b, err := os.ReadFile(resultFile(dir, i))
		if err != nil {
			return err
		}
		var s seen
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		addAll(&r.Events, s.Events)
		addAll(&r.Gets, s.Gets)
		r.Received += s.Received / float64(n)
		r.Raises += s.Raises
		r.FencedReads += s.FencedReads
	}
	return nil
}
