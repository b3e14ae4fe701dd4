package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	apiserverModule = "k8s.io/apiserver"
	ownServer       = ownPackage + "/testserver"
	serverFile      = "pkg/storage/etcd3/testserver/test_server.go"
)

// tree is a copy of k8s.io/apiserver in a workspace with this repository's modules.
type tree struct {
	dir       string
	apiserver string
	workspace string // the go.work file
	original  []byte // of serverFile
	ours      []byte
}

func newTree(ctx context.Context) (_ *tree, err error) {
	source, err := goList(ctx, "-m", "-f", "{{.Dir}}", apiserverModule)
	if err != nil {
		return nil, err
	}
	server, err := goList(ctx, "-f", "{{.Dir}}", ownServer)
	if err != nil {
		return nil, err
	}
	t := &tree{}
	if t.dir, err = os.MkdirTemp("", "metaetcd-upstream-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.remove()
		}
	}()
	t.apiserver, t.workspace = filepath.Join(t.dir, "apiserver"), filepath.Join(t.dir, "go.work")
	if err := os.CopyFS(t.apiserver, os.DirFS(source)); err != nil {
		return nil, err
	}
	if t.original, err = os.ReadFile(filepath.Join(t.apiserver, serverFile)); err != nil {
		return nil, err
	}
	if t.ours, err = os.ReadFile(filepath.Join(server, "testserver.go")); err != nil {
		return nil, err
	}
	return t, t.writeWorkspace(filepath.Dir(server))
}

// writeWorkspace makes the copy a main module beside ours: so its own go.sum vouches for what only its tests need.
func (t *tree) writeWorkspace(module string) error {
	root := filepath.Dir(filepath.Dir(module))
	text := fmt.Sprintf("go 1.26.0\n\nuse (\n\t%s\n\t%s\n\t%s\n\t%s\n)\n", t.apiserver, module, filepath.Join(root, "metaetcdtest"), root)
	if err := os.WriteFile(t.workspace, []byte(text), 0o600); err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.work.sum"))
	if err != nil {
		return err
	}
	return os.WriteFile(t.workspace+".sum", sums, 0o600)
}

// substitute puts the meta cluster in the place of etcd, and restore undoes it.
func (t *tree) substitute() error { return t.write(t.ours) }
func (t *tree) restore() error    { return t.write(t.original) }

func (t *tree) write(server []byte) error {
	return os.WriteFile(filepath.Join(t.apiserver, serverFile), server, 0o600)
}

func (t *tree) remove() { _ = os.RemoveAll(t.dir) }

func goList(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
