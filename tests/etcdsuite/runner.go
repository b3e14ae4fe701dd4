package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/metaetcd/metaetcd/tests/etcdsuite/suite"
	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

// attempts are how often a flaky test may be run until it passes.
const attempts = 3

type runner struct {
	out                io.Writer
	packages           []string
	only               *regexp.Regexp
	count, parallel    int
	race, verbose, all bool
	expected           suite.Expectations
}

// run runs the tests on one side, and prints the counts and what is not as expected.
func (r *runner) run(ctx context.Context, meta bool) error {
	side, err := suite.Build(ctx, r.packages, meta, r.race)
	if err != nil {
		return err
	}
	defer side.Close()
	tests, err := r.chosen(side)
	if err != nil {
		return err
	}
	name := "plain etcd"
	if meta {
		name = "meta cluster of 3 members"
	}
	counts, wrong := map[string]int{}, 0
	for pending, attempt := tests, 1; len(pending) > 0; attempt++ {
		var again []suite.Test
		err := side.RunAll(ctx, pending, r.parallel, func(test suite.Test, o *upstream.Outcomes) {
			problems := r.judge(meta, test, o)
			for _, problem := range problems {
				fmt.Fprintf(r.out, "%s: %s\n", name, problem)
			}
			if len(problems) > 0 && r.verbose {
				fmt.Fprintln(r.out, o.Output[""])
			}
			switch {
			case len(problems) == 0:
			case attempt < attempts && (!meta || len(r.expected.Of(suite.Flaky, test)) > 0):
				again = append(again, test)
				return
			default:
				wrong++
			}
			counts[o.Verdict[test.Name]]++
		})
		if err != nil {
			return err
		}
		pending = again
	}
	fmt.Fprintf(r.out, "%s: %d test functions passed, %d failed, %d skipped themselves\n", name, counts[upstream.Pass], counts[upstream.Fail], counts[upstream.Skip])
	if wrong > 0 {
		return fmt.Errorf("%s: %d test functions did not end as expected", name, wrong)
	}
	return nil
}

// chosen are the tests that concern a meta cluster, as often as they shall be run.
func (r *runner) chosen(side *suite.Side) ([]suite.Test, error) {
	tests, err := r.expected.Concerned(r.packages, side.Tests)
	if err != nil {
		return nil, err
	}
	if r.all {
		tests = side.Tests
	}
	var chosen []suite.Test
	for range r.count {
		for _, test := range tests {
			if r.only.MatchString(test.String()) {
				chosen = append(chosen, test)
			}
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("no test has such a name")
	}
	return chosen, nil
}

// judge expects a plain etcd to pass everything.
func (r *runner) judge(meta bool, test suite.Test, o *upstream.Outcomes) []string {
	if meta {
		return r.expected.Judge(test, o)
	}
	return suite.Expectations{}.Judge(test, o)
}
