package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
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
func (r *report) compare(suite string, plain, meta *upstream.Outcomes) {
	const format = "%-34s  %-32s  %-32s\n"
	if !r.titled {
		fmt.Fprintf(r.out, format, "", "plain etcd", "meta cluster of 3 members")
		r.titled = true
	}
	fmt.Fprintf(r.out, format, suite, summary(plain), summary(meta))
	names := maps.Clone(plain.Verdict)
	maps.Copy(names, meta.Verdict)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p, m := verdictOf(plain, name), verdictOf(meta, name)
		if p == m && p != upstream.Fail {
			continue
		}
		r.different++
		fmt.Fprintf(r.out, "  %s: plain %s, meta %s\n", name, p, m)
		if r.verbose && m == upstream.Fail {
			fmt.Fprintln(r.out, meta.Output[name])
		}
	}
}

func summary(o *upstream.Outcomes) string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", o.Count(upstream.Pass), o.Count(upstream.Fail), o.Count(upstream.Skip))
}

func verdictOf(o *upstream.Outcomes, name string) string {
	if v, ok := o.Verdict[name]; ok {
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

// split separates this module's tests, each of which runs on both sides, by the part of the name that says on which. Tests that
// contain the sides, and those that have none, are left out.
func split(o *upstream.Outcomes) (plain, meta *upstream.Outcomes) {
	sides := map[string]*upstream.Outcomes{"plain": upstream.NewOutcomes(), "meta": upstream.NewOutcomes()}
	for name, verdict := range o.Verdict {
		parts := strings.SplitN(name, "/", 3)
		if len(parts) < 2 || sides[parts[1]] == nil {
			continue
		}
		to := sides[parts[1]]
		short := strings.Join(append(parts[:1:1], parts[2:]...), "/")
		to.Verdict[short], to.Output[short] = verdict, o.Output[name]
	}
	return sides["plain"], sides["meta"]
}
