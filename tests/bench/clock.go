package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// clockAim is how many stamps per second one process should get.
const clockAim = 500_000

// clockTests take stamps from one clock: one at a time, as writers do, and as many as a full batch of the group commit.
var clockTests = []struct {
	name    string
	callers int
	stamps  int64
}{
	{"clock, 4,000 callers taking one stamp", 4_000, 1},
	{"clock, 64 callers taking 60 stamps", 64, 60},
}

// runClock prints how fast the clock is when nothing is done with its stamps.
func runClock(ctx context.Context, o *options, out *table) error {
	for _, t := range clockTests {
		if o.Sides == plain.String() || !o.Run.MatchString(t.name) {
			continue
		}
		var rates []float64
		for range o.Rounds {
			r, err := o.measureClock(ctx, t.callers, t.stamps)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			rates = append(rates, r.Rate()*float64(t.stamps))
		}
		out.clockRow(t.name, rates)
	}
	return nil
}

// measureClock runs a round against a coordinator of its own, which a meta cluster has to create.
func (o *options) measureClock(ctx context.Context, callers int, stamps int64) (_ *load.Result, err error) {
	cluster, side, err := o.open(ctx, meta, o.Layout)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	first, err := side.Get(ctx, key(0))
	if err := errors.Join(err, side.Close()); err != nil {
		return nil, err
	}
	cli, err := rig.Dial(ctx, cluster.Coordinator)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cli.Close()) }()
	status, err := cli.Status(ctx, cluster.Coordinator)
	if err != nil {
		return nil, err
	}
	c := clock.New(clock.Config{ //nolint:contextcheck // the clock outlives the call
		Coordinator:   clientv3.RetryKVClient(cli),
		ClusterID:     first.Header.ClusterId,
		CoordinatorID: status.Header.ClusterId,
	})
	defer c.Close()
	if err := c.Open(ctx); err != nil {
		return nil, err
	}
	take := func(ctx context.Context, _ int) error {
		_, _, err := c.Take(ctx, stamps)
		return err
	}
	if _, err := load.Run(ctx, callers, 200*time.Millisecond, take); err != nil {
		return nil, err
	}
	return load.Run(ctx, callers, o.Duration, take)
}
