package suite

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kinds of expectations.
const (
	// Out is a test that does not concern a meta cluster, with all that its name, a regular expression, matches as a whole.
	Out = "out"
	// Differs is a test, or a subtest, that fails on a meta cluster.
	Differs = "differs"
	// Flaky is a test that fails now and then on a plain etcd as well: it is tried again.
	Flaky = "flaky"
)

//go:embed expectations.txt
var expectationsText string

// Expectation is what is known of a test, and why.
type Expectation struct {
	Kind   string
	Test   Test // of Out, the name is a regular expression
	Reason string
}

// Expectations are what expectations.txt says.
type Expectations []Expectation

// Expected returns what expectations.txt says.
func Expected() (Expectations, error) { return parse(expectationsText) }

// parse reads lines of kind, package and name, and then a colon and the reason. A "#" begins a comment.
func parse(text string) (Expectations, error) {
	var es Expectations
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		head, reason, ok := strings.Cut(line, ": ")
		fields := strings.Fields(head)
		if !ok || len(fields) != 3 || reason == "" {
			return nil, fmt.Errorf("expectations: want a kind, a package and a test, a colon and a reason: %q", line)
		}
		switch fields[0] {
		case Out:
			if _, err := regexp.Compile(fields[2]); err != nil {
				return nil, fmt.Errorf("expectations: %q: %w", line, err)
			}
		case Differs, Flaky:
		default:
			return nil, fmt.Errorf("expectations: no such kind: %q", line)
		}
		es = append(es, Expectation{fields[0], Test{fields[1], fields[2]}, reason})
	}
	return es, nil
}

// Concerned are those of the packages' tests that are not left out. An expectation that is about none of them is an error.
func (es Expectations) Concerned(packages []string, tests []Test) ([]Test, error) {
	used := make([]bool, len(es))
	var in []Test
	for _, test := range tests {
		out := false
		for i, e := range es {
			about := e.Test.Package == test.Package && e.matches(test.Name)
			used[i] = used[i] || about
			out = out || about && e.Kind == Out
		}
		if !out {
			in = append(in, test)
		}
	}
	for i, e := range es {
		if !used[i] && slices.Contains(packages, e.Test.Package) {
			return nil, fmt.Errorf("expectations: etcd has no test %s", e.Test)
		}
	}
	return in, nil
}

// matches says whether the expectation is about the test function of this name or one of its subtests.
func (e Expectation) matches(function string) bool {
	if e.Kind == Out {
		return regexp.MustCompile("^(" + e.Test.Name + ")$").MatchString(function)
	}
	return topLevel(e.Test.Name) == function
}

func topLevel(name string) string {
	function, _, _ := strings.Cut(name, "/")
	return function
}

// Of are the expectations of a kind that are about a test function or its subtests.
func (es Expectations) Of(kind string, function Test) (of Expectations) {
	for _, e := range es {
		if e.Kind == kind && e.Test.Package == function.Package && e.matches(function.Name) {
			of = append(of, e)
		}
	}
	return of
}
