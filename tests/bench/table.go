package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

// table prints the comparison line by line.
type table struct {
	w      io.Writer
	titled bool
}

const (
	titleFormat = "%-41s  %28s    %28s    %-8s %-13s %s\n"
	rowFormat   = "%-41s  %s    %s    %-8s %-13s %s\n"
	sideHeader  = "   per s     p50     p99  cpu"
	sideFormat  = "%8s %7s %7s %4s"
)

// title prints the head of the table, once.
func (t *table) title() {
	if !t.titled {
		fmt.Fprintf(t.w, titleFormat, "", "plain etcd          ", "meta cluster         ", "", "", "")
		fmt.Fprintf(t.w, titleFormat, "", sideHeader, sideHeader, "ratio", "min … max", "aim")
		t.titled = true
	}
}

func (t *table) row(test test, rounds []pair[*load.Result]) {
	t.title()
	var sides pair[string]
	for _, s := range []side{plain, meta} {
		sides[s] = sideColumns(rounds, s)
	}
	factor, spread, aim := "", "", ""
	if ratios := pairRatios(test.compare, rounds); len(ratios) > 0 {
		factor = fmt.Sprintf("%.2f", median(ratios))
		spread = fmt.Sprintf("%.2f … %.2f", ratios[0], ratios[len(ratios)-1])
		aim = test.compare.verdict(median(ratios))
	}
	fmt.Fprintf(t.w, rowFormat, test.name, sides[plain], sides[meta], factor, spread, aim)
}

func (t *table) allocRow(name string, order []side, results pair[allocation]) {
	t.title()
	var sides pair[string]
	for _, s := range order {
		sides[s] = fmt.Sprintf("%.0f objects, %.0f bytes", results[s].objects, results[s].bytes)
	}
	factor := ""
	if len(order) == len(results) {
		factor = fmt.Sprintf("%.2f", results[meta].objects/results[plain].objects)
	}
	fmt.Fprintf(t.w, titleFormat, name, sides[plain], sides[meta], factor, "", "")
}

func (t *table) clockRow(name string, rates []float64) {
	t.title()
	slices.Sort(rates)
	rate := median(rates)
	spread := fmt.Sprintf("%.0fk … %.0fk", rates[0]/1000, rates[len(rates)-1]/1000)
	verdict := fmt.Sprintf("≥ %d %s", clockAim, reached(rate >= clockAim))
	fmt.Fprintf(t.w, titleFormat, name, "", fmt.Sprintf("%.0f stamps per s", rate), "", spread, verdict)
}

// sideColumns are the medians over all rounds of a side.
func sideColumns(rounds []pair[*load.Result], s side) string {
	if rounds[0][s] == nil {
		return fmt.Sprintf(sideFormat, "", "", "", "")
	}
	middle := func(of func(r *load.Result) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, of(r[s]))
		}
		slices.Sort(values)
		return median(values)
	}
	p50 := middle(func(r *load.Result) float64 { return float64(r.Latency.Quantile(0.5)) })
	p99 := middle(func(r *load.Result) float64 { return float64(r.Latency.Quantile(0.99)) })
	return fmt.Sprintf(sideFormat, fmt.Sprintf("%.0f", middle((*load.Result).Rate)), short(p50), short(p99),
		fmt.Sprintf("%.1f", middle(func(r *load.Result) float64 { return r.CPU })))
}

// pairRatios are meta to plain, round by round, sorted; none if a side was left out.
func pairRatios(compare ratio, rounds []pair[*load.Result]) []float64 {
	var ratios []float64
	for _, r := range rounds {
		if r[plain] != nil && r[meta] != nil {
			ratios = append(ratios, compare.of(r[meta])/compare.of(r[plain]))
		}
	}
	slices.Sort(ratios)
	return ratios
}

// verdict is the aim, and whether the measured ratio reaches it. What is compared is the rate for a lower bound and the median
// latency for an upper one.
func (r ratio) verdict(measured float64) string {
	switch {
	case r.aim == 0:
		return ""
	case r.most:
		return fmt.Sprintf("p50 ≤ %.2f %s", r.aim, reached(measured <= r.aim))
	default:
		return fmt.Sprintf("≥ %.2f %s", r.aim, reached(measured >= r.aim))
	}
}

func reached(is bool) string {
	if is {
		return "reached"
	}
	return "missed"
}

// median of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// short prints nanoseconds in at most seven characters.
func short(ns float64) string {
	switch d := time.Duration(ns); {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	default:
		return fmt.Sprintf("%.1fms", d.Seconds()*1000)
	}
}

// printMachine says what the figures depend on.
func printMachine(o *options) error {
	sync, err := syncTime(o.Layout.Dir)
	if err != nil {
		return err
	}
	how := "all in one process"
	if o.Procs {
		how = "every etcd a process of its own"
	}
	fmt.Printf("%d processors, %s, etcd %s, fdatasync %s; %d members, %s; %d-byte values, %d rounds of %s\n\n",
		runtime.NumCPU(), runtime.Version(), version.Version, sync.Round(time.Microsecond), o.Members, how, valueSize, o.Rounds, o.Duration)
	return nil
}

// syncTime is how long the disk takes to make a small overwrite durable.
func syncTime(dir string) (_ time.Duration, err error) {
	const writes, size = 200, 2048
	f, err := os.CreateTemp(dir, "metaetcd-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	buf := make([]byte, size)
	if _, err := f.Write(buf); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	start := time.Now()
	for range writes {
		if _, err := f.WriteAt(buf, 0); err != nil {
			return 0, err
		}
		if err := fileutil.Fdatasync(f); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / writes, nil
}
