package suite

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

// Judge compares how a test function and its subtests ended on the meta cluster with what is expected, and returns what is not
// as it should be. A test that fails only because one of its subtests does is not named beside it.
func (es Expectations) Judge(function Test, o *upstream.Outcomes) (wrong []string) {
	differs := map[string]bool{}
	for _, e := range es.Of(Differs, function) {
		differs[e.Test.Name] = true
		if o.Verdict[e.Test.Name] != upstream.Fail {
			wrong = append(wrong, fmt.Sprintf("%s should differ, and does not (%s): %s", e.Test, orMissing(o.Verdict[e.Test.Name]), e.Reason))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Verdict)) {
		if o.Verdict[name] == upstream.Fail && !differs[name] && !failsBelow(o, name) {
			wrong = append(wrong, fmt.Sprintf("%s fails", Test{function.Package, name}))
		}
	}
	return wrong
}

func orMissing(verdict string) string {
	if verdict == "" {
		return "missing"
	}
	return verdict
}

func failsBelow(o *upstream.Outcomes, name string) bool {
	for other, verdict := range o.Verdict {
		if verdict == upstream.Fail && strings.HasPrefix(other, name+"/") {
			return true
		}
	}
	return false
}
