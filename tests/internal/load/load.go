// Package load drives operations from many workers and measures them.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Op performs one operation for one of the workers, 0, 1, …, and returns when it is acknowledged. No worker has two operations
// under way.
type Op func(ctx context.Context, worker int) error

// Result is what a Run measured.
type Result struct {
	Ops     int
	Elapsed time.Duration
	Latency Hist
	CPU     float64 // processors busy on the whole machine, on average; 0 where the system does not tell
}

// Rate is operations per second.
func (r *Result) Rate() float64 { return float64(r.Ops) / r.Elapsed.Seconds() }

// Run lets the workers perform operations back to back for d. An operation that ends later does not count. The first error
// ends the run.
func Run(ctx context.Context, workers int, d time.Duration, op Op) (*Result, error) {
	g, ctx := errgroup.WithContext(ctx)
	hists := make([]Hist, workers)
	cpu := StartCPU()
	start := time.Now()
	for w := range workers {
		g.Go(func() error {
			for {
				begin := time.Now()
				if begin.Sub(start) >= d {
					return nil
				}
				if err := op(ctx, w); err != nil {
					return fmt.Errorf("worker %d: %w", w, err)
				}
				if end := time.Now(); end.Sub(start) <= d {
					hists[w].Add(end.Sub(begin))
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r := &Result{Elapsed: d, CPU: cpu.Busy()}
	for w := range hists {
		r.Latency.Merge(&hists[w])
	}
	r.Ops = r.Latency.Count()
	if r.Ops == 0 {
		return nil, errors.New("no operation ended in time")
	}
	return r, nil
}

// Each performs op(0), op(1), … op(n-1), by the given number of workers.
func Each(ctx context.Context, workers, n int, op func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := op(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
