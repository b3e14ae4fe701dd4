package upstream

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// WriteWorkspace writes a go.work file into dir, with the modules in the given directories, and returns its name. A module that
// is copied into a workspace is a main module, so that its own go.sum vouches for what only its tests need. Sums are those of the
// repository in root, to begin with.
func WriteWorkspace(dir, root string, modules ...string) (string, error) {
	file := filepath.Join(dir, "go.work")
	text := fmt.Sprintf("go 1.26.0\n\nuse (\n\t%s\n)\n", strings.Join(modules, "\n\t"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.work.sum"))
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file+".sum", sums, 0o600)
}

// Go runs the go command in dir, with more environment, and returns what it wrote.
func Go(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
