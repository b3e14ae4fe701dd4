package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const (
	patience = 2 * time.Minute
	slice    = 50 * time.Millisecond
)

// requireNothingLeft fails the test if, when it ends, a directory or a goroutine of a tour is left.
func requireNothingLeft(t *testing.T) {
	t.Helper()
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	inMemory := func() []string {
		dirs, err := filepath.Glob(filepath.Join(sharedMemory, dirPrefix+"*"))
		require.NoError(t, err)
		return dirs
	}
	before := inMemory()
	t.Cleanup(func() {
		left, err := os.ReadDir(temporary)
		require.NoError(t, err)
		require.Empty(t, left)
		require.Eventually(t, func() bool { // somebody else may be on a tour
			return !slices.ContainsFunc(inMemory(), func(dir string) bool { return !slices.Contains(before, dir) })
		}, patience, 10*time.Millisecond, "left in %s", sharedMemory)
		goleak.VerifyNone(t)
	})
}

func TestTour(t *testing.T) {
	requireNothingLeft(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, slice))
	story := out.String()
	t.Log(story)
	find := func(pattern string) [][]string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(story, -1)
		require.NotEmpty(t, found, pattern)
		return found
	}

	var named, held []string
	for i, put := range find(`(\w+)@(\d+)`) {
		require.Equal(t, fruit[i], put[1])
		named = append(named, put[2])
	}
	require.Equal(t, strings.Fields("2 3 4 5 6 7 8 9 10 11 12 13"), named, "one revision for each write")
	members := find(`(?m)etcd (\w+) +holds (.+)$`)
	require.Len(t, members, 3)
	for _, m := range members {
		held = append(held, strings.Fields(m[2])...)
	}
	require.ElementsMatch(t, fruit, held, "each key lies on one member")

	require.Contains(t, story, "The first five of 12 at revision 13: apple banana cherry date elder\n")
	require.Contains(t, story, "the counter stands at 160, and its version is 161.")
	order := find(`Bob's watch: ([AB]+), revisions \d+ to \d+, ascending`)[0][1]
	require.Equal(t, []int{12, 12}, []int{strings.Count(order, "A"), strings.Count(order, "B")})
	require.Regexp(t, `Revision 7: +apple banana cherry elder fig grape\n`, story)
	require.Regexp(t, `Revision \d+: apple banana cherry date fig grape kiwi lemon mango olive papaya \(`, story)
	find(`After \d+ writes the coordinator is stopped and its data removed`)
	find(`All \d+ writes succeeded; .* No revision was given twice, and none went back`)
	find(`plain etcd +[1-9]\d* puts`)
	find(`meta cluster +[1-9]\d*, \d+\.\d+ times plain's`)
}

// TestTourThatIsBrokenOff: it ends with its context, wherever that is.
func TestTourThatIsBrokenOff(t *testing.T) {
	requireNothingLeft(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.ErrorIs(t, run(ctx, &trigger{words: "3. ", pull: cancel}, slice), context.Canceled)
}

// trigger is pulled when some words are written.
type trigger struct {
	words string
	pull  func()
}

func (w *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.words)) {
		w.pull()
	}
	return len(p), nil
}
