//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	valueSize = 256
	keyCount  = 20_000
)

// run is one measurement.
type run struct {
	members int // 0: a plain etcd
	result  *load.Result
	written map[string]int64 // bytes, by etcd
}

// run measures a plain etcd, if members is 0, or a meta cluster.
func (o *options) run(ctx context.Context, t *throttle, members int) (_ *run, err error) {
	defer func() { err = errors.Join(err, t.remove()) }()
	cluster, err := o.start(members)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.lift(), cluster.Stop()) }()
	side, err := cluster.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, side.Close()) }()

	if _, err := load.Run(ctx, o.writers, o.warmup, put(side)); err != nil {
		return nil, err
	}
	before, err := t.written()
	if err != nil {
		return nil, err
	}
	result, err := load.Run(ctx, o.writers, o.duration, put(side))
	if err != nil {
		return nil, err
	}
	after, err := t.written()
	if err != nil {
		return nil, err
	}
	for name := range after {
		after[name] -= before[name]
	}
	return &run{members: members, result: result, written: after}, nil
}

func (o *options) start(members int) (*rig.Cluster, error) {
	if members == 0 {
		return o.layout.Plain()
	}
	return o.layout.Meta(members)
}

// put writes any of keyCount keys.
func put(s *rig.Side) load.Op {
	value := make([]byte, valueSize)
	for i := range value {
		value[i] = byte(rand.UintN(256))
	}
	return func(ctx context.Context, _ int) error {
		_, err := s.Put(ctx, fmt.Sprintf("/bench/keys/%06d", rand.IntN(keyCount)), string(value))
		return err
	}
}

func (o *options) title(t *throttle) {
	fmt.Printf("%d processors; each etcd a process whose writes to device %s are limited to %s; %d writers, %d-byte values, %s each\n\n",
		runtime.NumCPU(), t.device, o.limits, o.writers, valueSize, o.duration)
	fmt.Printf("%-12s %10s %9s %9s %5s  %15s  %s\n", "", "puts per s", "p50", "p99", "cpu", "bytes per put", "written per s, by etcd")
}

func (l limits) String() string {
	var of []string
	if l.bytes > 0 {
		of = append(of, mega(l.bytes)+"/s")
	}
	if l.operations > 0 {
		of = append(of, fmt.Sprintf("%d operations/s", l.operations))
	}
	if len(of) == 0 {
		return "nothing"
	}
	return strings.Join(of, " and ")
}

func (r *run) name() string {
	switch r.members {
	case 0:
		return "plain etcd"
	case 1:
		return "1 member"
	}
	return fmt.Sprintf("%d members", r.members)
}

func (r *run) print() {
	var total int64
	var each []string
	for _, name := range slices.Sorted(maps.Keys(r.written)) {
		total += r.written[name]
		each = append(each, mega(int64(float64(r.written[name])/r.result.Elapsed.Seconds())))
	}
	fmt.Printf("%-12s %10.0f %9s %9s %5.1f  %15.0f  %s\n", r.name(), r.result.Rate(),
		r.result.Latency.Quantile(0.5).Round(time.Millisecond), r.result.Latency.Quantile(0.99).Round(time.Millisecond),
		r.result.CPU, float64(total)/float64(r.result.Ops), strings.Join(each, " "))
}

func mega(bytes int64) string { return fmt.Sprintf("%.2f MB", float64(bytes)/1e6) }

// printRatios compares with the mean of the plain runs.
func printRatios(runs []*run) {
	var plain float64
	var plains int
	for _, r := range runs {
		if r.members == 0 {
			plain += r.result.Rate()
			plains++
		}
	}
	plain /= float64(plains)
	fmt.Println()
	for _, r := range runs {
		if r.members == 0 {
			continue
		}
		times := r.result.Rate() / plain
		share := times / float64(r.members)
		verdict := "reached"
		if share < aim {
			verdict = "missed"
		}
		fmt.Printf("%-12s %.2f times plain: %.2f × N, aim ≥ %.1f × N %s\n", r.name(), times, share, aim, verdict)
	}
	if limit := float64(runtime.NumCPU()) * 0.9; slices.ContainsFunc(runs, func(r *run) bool { return r.result.CPU > limit }) {
		fmt.Println("\nProcessors, not disks, were the limit where cpu is close to their number: throttle the disks more.")
	}
}
