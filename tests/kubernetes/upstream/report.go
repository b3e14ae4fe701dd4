package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// report prints the comparison, suite by suite.
type report struct {
	out       io.Writer
	verbose   bool
	titled    bool
	different int
}

const missing = "missing"

// compare prints how many tests ended how on each side, subtests included, and those that differ.
func (r *report) compare(suite string, plain, meta *outcomes) {
	const format = "%-34s  %-32s  %-32s\n"
	if !r.titled {
		fmt.Fprintf(r.out, format, "", "plain etcd", "meta cluster of 3 members")
		r.titled = true
	}
	fmt.Fprintf(r.out, format, suite, summary(plain), summary(meta))
	names := maps.Clone(plain.verdict)
	maps.Copy(names, meta.verdict)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p, m := verdictOf(plain, name), verdictOf(meta, name)
		if p == m && p != "fail" {
			continue
		}
		r.different++
		fmt.Fprintf(r.out, "  %s: plain %s, meta %s\n", name, p, m)
		if r.verbose && m == "fail" {
			fmt.Fprintln(r.out, meta.output[name])
		}
	}
}

func summary(o *outcomes) string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", o.count("pass"), o.count("fail"), o.count("skip"))
}

func verdictOf(o *outcomes, name string) string {
	if v, ok := o.verdict[name]; ok {
		return v
	}
	return missing
}

// err says whether any test failed or ended differently.
func (r *report) err() error {
	if r.different > 0 {
		return fmt.Errorf("%d tests failed or ended differently", r.different)
	}
	return nil
}
