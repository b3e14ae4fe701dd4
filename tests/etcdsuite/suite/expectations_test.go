package suite

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

const someExpectations = `
# a comment
out a Test(B|C).*: servers
differs a TestD/one: sizes: a stored value is longer
flaky b TestD: waits for a time
`

func expectations(t *testing.T, text string) Expectations {
	t.Helper()
	es, err := parse(text)
	require.NoError(t, err)
	return es
}

func TestParse(t *testing.T) {
	require.Equal(t, Expectations{
		{Out, Test{"a", "Test(B|C).*"}, "servers"},
		{Differs, Test{"a", "TestD/one"}, "sizes: a stored value is longer"},
		{Flaky, Test{"b", "TestD"}, "waits for a time"},
	}, expectations(t, someExpectations))

	for _, line := range []string{"out a TestB", "out a: no test", "differs a TestB:", "perhaps a TestB: who knows", "out a Test(: no expression"} {
		_, err := parse(line)
		require.ErrorContains(t, err, line)
	}
}

func TestConcerned(t *testing.T) {
	es := expectations(t, someExpectations)
	all := []Test{{"a", "TestB"}, {"a", "TestCC"}, {"a", "TestD"}, {"a", "TestAB"}, {"b", "TestB"}, {"b", "TestD"}}
	in, err := es.Concerned([]string{"a", "b"}, all)
	require.NoError(t, err)
	require.Equal(t, []Test{{"a", "TestD"}, {"a", "TestAB"}, {"b", "TestB"}, {"b", "TestD"}}, in)

	_, err = es.Concerned([]string{"a", "b"}, all[:5])
	require.ErrorContains(t, err, "etcd has no test b TestD")
	_, err = es.Concerned([]string{"a"}, all[:4])
	require.NoError(t, err, "b is not run")
}

func TestJudge(t *testing.T) {
	es := expectations(t, someExpectations)
	d := Test{"a", "TestD"}
	for name, c := range map[string]struct {
		verdicts string // name and verdict, by turns
		wrong    string
	}{
		"as expected":         {"TestD fail TestD/one fail TestD/two pass", ""},
		"one that passes now": {"TestD pass TestD/one pass", "a TestD/one should differ, and does not (pass): sizes: a stored value is longer"},
		"one that is gone":    {"TestD pass", "a TestD/one should differ, and does not (missing): sizes: a stored value is longer"},
		"another":             {"TestD fail TestD/one fail TestD/two fail", "a TestD/two fails"},
		"only below":          {"TestD fail TestD/one fail TestD/one/x fail", "a TestD/one/x fails"},
	} {
		o := upstream.NewOutcomes()
		fields := strings.Fields(c.verdicts)
		for i := 0; i < len(fields); i += 2 {
			o.Verdict[fields[i]] = fields[i+1]
		}
		require.Equal(t, c.wrong, strings.Join(es.Judge(d, o), "\n"), name)
	}
	o := upstream.NewOutcomes()
	o.Verdict["TestD"] = upstream.Fail
	require.Equal(t, []string{"b TestD fails"}, es.Judge(Test{"b", "TestD"}, o), "flaky is not expected to fail")
}

// TestExpected: the list can be read.
func TestExpected(t *testing.T) {
	es, err := Expected()
	require.NoError(t, err)
	require.NotEmpty(t, es)
}
