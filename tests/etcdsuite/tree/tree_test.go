package tree

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReplace: an edit finds its place once, or says what it looked for.
func TestReplace(t *testing.T) {
	tr := &Tree{Dir: t.TempDir()}
	file := filepath.Join(tr.Dir, "a.go")
	require.NoError(t, os.WriteFile(file, []byte("one two two"), 0o600))
	require.NoError(t, tr.replace(edit{"a.go", "one", "three"}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "three two two", string(text))
	require.ErrorContains(t, tr.replace(edit{"a.go", "two", ""}), "2 times, not once")
	require.ErrorContains(t, tr.replace(edit{"a.go", "four", ""}), "0 times, not once")
}

// TestSubstituteDial: examples that dial in another way are not overlooked.
func TestSubstituteDial(t *testing.T) {
	tr := &Tree{Dir: t.TempDir()}
	file := filepath.Join(tr.Dir, "example_a_test.go")
	require.NoError(t, os.WriteFile(file, []byte("package a_test\n\nvar _, _ = clientv3.New(cfg)\n"), 0o600))
	require.NoError(t, tr.substituteDial("."))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "package a_test\n\nvar _, _ = newExampleClient(cfg)\n", string(text))
	text, err = os.ReadFile(filepath.Join(tr.Dir, "meta_test.go"))
	require.NoError(t, err)
	require.Contains(t, string(text), "package a_test\n")
	require.ErrorContains(t, tr.substituteDial("."), "tell package tree")
}
