package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// side is one of the two things compared.
type side int

const (
	plain side = iota
	meta
)

func (s side) String() string { return [...]string{"plain", "meta"}[s] }

// pair has a value for each side; that of a side that is left out is the zero value.
type pair[T any] [2]T

// A group of benchmarks shares servers, which start empty.
type group struct {
	processes int                                          // that each side's servers have; 0: one
	load      func(ctx context.Context, s *rig.Side) error // nil: nothing
	tests     []test
}

// test is one line of the table.
type test struct {
	name    string
	prepare prepareFunc
	compare ratio
}

// prepareFunc gets one side ready for all rounds of a test.
type prepareFunc func(ctx context.Context, s *rig.Side) (round, error)

// round measures for about d.
type round func(ctx context.Context, d time.Duration) (*load.Result, error)

// by makes a test of an operation that so many workers perform back to back, spread over the side's processes.
func by(workers int, prepare func(ctx context.Context, s *rig.Side, workers int) (load.Op, error)) prepareFunc {
	return func(ctx context.Context, s *rig.Side) (round, error) {
		processes := append([]*rig.Side{s}, s.Others...)
		n := len(processes)
		ops := make([]load.Op, n)
		for i, p := range processes {
			var err error
			if ops[i], err = prepare(ctx, p, workers/n); err != nil {
				return nil, err
			}
		}
		return func(ctx context.Context, d time.Duration) (*load.Result, error) {
			return load.Run(ctx, workers, d, func(ctx context.Context, worker int) error { return ops[worker%n](ctx, worker/n) })
		}, nil
	}
}

// ratio is what is compared, and the project's aim.
type ratio struct {
	of   func(r *load.Result) float64
	aim  float64 // 0: none
	most bool    // the aim is an upper bound
}

func rateAtLeast(aim float64) ratio { return ratio{of: (*load.Result).Rate, aim: aim} }

// medianAtMost compares median latencies, those below the floor as if they were the floor.
func medianAtMost(aim float64, floor time.Duration) ratio {
	return ratio{
		of:   func(r *load.Result) float64 { return max(r.Latency.Quantile(0.5), floor).Seconds() },
		aim:  aim,
		most: true,
	}
}

// eventFloor keeps the ratio of events' delays meaningful: a plain etcd's single watcher often has the event before the writer
// has the acknowledgement.
const eventFloor = 100 * time.Microsecond

var groups = []group{
	{load: loadKeys, tests: []test{
		{"put, 1 writer", by(1, put), medianAtMost(1.7, 0)},
		{"put, 16 writers", by(16, put), rateAtLeast(0)},
		{"put, 128 writers", by(128, put), rateAtLeast(1.5)},
		{"put, 512 writers", by(512, put), rateAtLeast(2)},
	}},
	{tests: []test{{"put of new keys, 128 writers", by(128, putNew), rateAtLeast(0)}}},
	{tests: []test{{"create, 128 writers", by(128, create), rateAtLeast(1.5)}}},
	{tests: []test{{"update, 128 writers", by(128, update), rateAtLeast(1.5)}}},
	{load: loadKeys, tests: []test{
		{"txn of 2 keys, 1 writer", by(1, putPairs(keyCount)), medianAtMost(0, 0)},
		{"txn of 2 keys, 16 writers", by(16, putPairs(keyCount)), rateAtLeast(0)},
		{"txn of 2 keys, 128 writers", by(128, putPairs(keyCount)), rateAtLeast(0)},
		{"txn of 2 of 10 hot keys, 1 writer", by(1, putPairs(hotKeys)), medianAtMost(0, 0)},
		{"txn of 2 of 10 hot keys, 16 writers", by(16, putPairs(hotKeys)), rateAtLeast(0)},
		{"txn of 2 of 10 hot keys, 128 writers", by(128, putPairs(hotKeys)), rateAtLeast(0)},
		{"swap of 2 keys, 1 writer", by(1, swapPairs), medianAtMost(0, 0)},
		{"swap of 2 keys, 16 writers", by(16, swapPairs), rateAtLeast(0)},
		{"swap of 2 keys, 128 writers", by(128, swapPairs), rateAtLeast(0)},
	}},
	{load: loadKeys, tests: []test{
		{"get, 1 reader", by(1, get()), medianAtMost(0, 0)},
		{"get, 128 readers", by(128, get()), rateAtLeast(0.8)},
		{"serializable get, 1 reader", by(1, get(clientv3.WithSerializable())), rateAtLeast(0.95)},
		{"serializable get, 128 readers", by(128, get(clientv3.WithSerializable())), rateAtLeast(0.95)},
	}},
	{tests: []test{
		{"list of 1,000, 1 reader", by(1, list), rateAtLeast(0.95)},
		{"list of 1,000, 16 readers", by(16, list), rateAtLeast(0.95)},
	}},
	{processes: 2, load: loadKeys, tests: []test{
		{"puts of 2 processes, 16 writers", by(16, put), rateAtLeast(0.35)},
		{"puts of 2 processes, 128 writers", by(128, put), rateAtLeast(0.8)},
	}},
	{processes: 4, load: loadKeys, tests: []test{
		{"puts of 4 processes, 128 writers", by(128, put), rateAtLeast(0.7)},
	}},
	{processes: 10, tests: []test{
		{"counting on 10 keys, 10 processes", by(10, increment(hotKeys)), rateAtLeast(0.35)},
		{"counting on 1 key, 10 processes", by(10, increment(1)), rateAtLeast(0.35)},
	}},
	{tests: []test{
		{"event after acknowledgement, 1 watcher", watch(1, sinceAck), medianAtMost(1.5, eventFloor)},
		{"event after acknowledgement, 100 watchers", watch(100, sinceAck), medianAtMost(1.5, eventFloor)},
		{"event after start of put, 1 watcher", watch(1, sincePut), medianAtMost(0, 0)},
		{"event after start of put, 100 watchers", watch(100, sincePut), medianAtMost(0, 0)},
	}},
}

// runComparisons prints the table.
func runComparisons(ctx context.Context, o *options, out *table) error {
	for _, g := range groups {
		g.tests = o.chosen(g.tests)
		if len(g.tests) == 0 {
			continue
		}
		if err := runGroup(ctx, o, g, out); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) chosen(tests []test) []test {
	var chosen []test
	for _, t := range tests {
		if o.Run.MatchString(t.name) {
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// sidesRun are the sides to run, in order.
func (o *options) sidesRun() []side {
	switch o.Sides {
	case plain.String():
		return []side{plain}
	case meta.String():
		return []side{meta}
	}
	return []side{plain, meta}
}

func runGroup(ctx context.Context, o *options, g group, out *table) (err error) {
	var opened pair[*rig.Side]
	for _, s := range o.sidesRun() {
		cluster, side, err := o.open(ctx, s, o.Layout)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, side.Close(), cluster.Stop()) }()
		for range g.processes - 1 {
			other, err := cluster.Open(ctx)
			if err != nil {
				return fmt.Errorf("open %s once more: %w", s, err)
			}
			defer func() { err = errors.Join(err, other.Close()) }()
			other.Peers = side.Peers
			side.Others = append(side.Others, other)
		}
		if g.load != nil {
			if err := g.load(ctx, side); err != nil {
				return fmt.Errorf("load keys into %s: %w", s, err)
			}
		}
		opened[s] = side
	}
	for _, test := range g.tests {
		rounds, err := runTest(ctx, o, test, opened)
		if err != nil {
			return fmt.Errorf("%s: %w", test.name, err)
		}
		out.row(test, rounds)
	}
	return nil
}

// open starts a side's servers and connects to them.
func (o *options) open(ctx context.Context, s side, layout rig.Layout) (*rig.Cluster, *rig.Side, error) {
	cluster, err := o.servers(s, layout)
	if err != nil {
		return nil, nil, err
	}
	side, err := cluster.Open(ctx)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open %s: %w", s, err), cluster.Stop())
	}
	side.Peers = rig.MemberNames(o.Members)
	return cluster, side, nil
}

func (o *options) servers(s side, layout rig.Layout) (*rig.Cluster, error) {
	if s == plain {
		return layout.Plain()
	}
	return layout.Meta(o.Members)
}

// runTest measures the sides in turn, after a round of each that does not count. Every other time the other side goes first,
// so that nothing that drifts favours one.
func runTest(ctx context.Context, o *options, t test, sides pair[*rig.Side]) ([]pair[*load.Result], error) {
	var measure pair[round]
	order := o.sidesRun()
	for _, s := range order {
		m, err := t.prepare(ctx, sides[s])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		measure[s] = m
	}
	rounds := make([]pair[*load.Result], o.Rounds+1)
	for i := range rounds {
		for j := range order {
			s := order[(i+j)%len(order)]
			runtime.GC()
			r, err := measure[s](ctx, o.Duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s, err)
			}
			rounds[i][s] = r
		}
	}
	return rounds[1:], nil
}
