package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

// test is one line of the table.
type test struct {
	name    string
	workers int
	aim     float64 // of the ratio of rates; 0: none
	// prepare returns the operation, and what ends what it started.
	prepare func(ctx context.Context, s *side) (op load.Op, done func(), err error)
}

// compare measures a test in turns on both sides, after a round that does not count, and prints the line. A side may be nil.
func compare(ctx context.Context, o *options, t test, plain, meta *side) error {
	var results [2][]*load.Result
	var ops [2]load.Op
	for i, s := range []*side{plain, meta} {
		if s == nil {
			continue
		}
		op, done, err := t.prepare(ctx, s)
		if err != nil {
			return err
		}
		defer done()
		ops[i] = op
	}
	for round := range o.Rounds + 1 {
		for i := range ops {
			if ops[i] == nil {
				continue
			}
			r, err := load.Run(ctx, t.workers, o.Duration, ops[i])
			if err != nil {
				return err
			}
			if round > 0 {
				results[i] = append(results[i], r)
			}
		}
	}
	row(t, results[0], results[1])
	return nil
}

const (
	titleFormat = "%-44s  %-24s  %-24s  %-6s %-13s %s\n"
	sideTitle   = "  per s     p50      p99"
	sideFormat  = "%7.0f %8s %8s"
)

func title() {
	fmt.Printf(titleFormat, "", "plain etcd", "meta cluster", "", "", "")
	fmt.Printf(titleFormat, "", sideTitle, sideTitle, "ratio", "min … max", "aim")
}

func row(t test, plain, meta []*load.Result) {
	if len(plain) == 0 || len(meta) == 0 {
		fmt.Printf(titleFormat, t.name, column(plain), column(meta), "", "", "")
		return
	}
	var ratios []float64
	for i := range plain {
		ratios = append(ratios, meta[i].Rate()/plain[i].Rate())
	}
	slices.Sort(ratios)
	ratio, aim := median(ratios), ""
	if t.aim > 0 {
		aim = fmt.Sprintf("≥ %.2f reached", t.aim)
		if ratio < t.aim {
			aim = fmt.Sprintf("≥ %.2f missed", t.aim)
		}
	}
	fmt.Printf(titleFormat, t.name, column(plain), column(meta), fmt.Sprintf("%.2f", ratio),
		fmt.Sprintf("%.2f … %.2f", ratios[0], ratios[len(ratios)-1]), aim)
}

// column shows the medians of a side's rounds, if there were any.
func column(rounds []*load.Result) string {
	if len(rounds) == 0 {
		return ""
	}
	middle := func(of func(*load.Result) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, of(r))
		}
		slices.Sort(values)
		return median(values)
	}
	quantile := func(q float64) string {
		ns := middle(func(r *load.Result) float64 { return float64(r.Latency.Quantile(q)) })
		return fmt.Sprintf("%.2fms", ns/1e6)
	}
	return fmt.Sprintf(sideFormat, middle((*load.Result).Rate), quantile(0.5), quantile(0.99))
}

// median of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
