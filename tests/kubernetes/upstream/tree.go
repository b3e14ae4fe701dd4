package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
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
	source, err := upstream.Go(ctx, "", nil, "list", "-m", "-f", "{{.Dir}}", apiserverModule)
	if err != nil {
		return nil, err
	}
	server, err := upstream.Go(ctx, "", nil, "list", "-f", "{{.Dir}}", ownServer)
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
	t.apiserver = filepath.Join(t.dir, "apiserver")
	if err := os.CopyFS(t.apiserver, os.DirFS(source)); err != nil {
		return nil, err
	}
	if t.original, err = os.ReadFile(filepath.Join(t.apiserver, serverFile)); err != nil {
		return nil, err
	}
	if t.ours, err = os.ReadFile(filepath.Join(server, "testserver.go")); err != nil {
		return nil, err
	}
	module := filepath.Dir(server)
	root := filepath.Dir(filepath.Dir(module))
	t.workspace, err = upstream.WriteWorkspace(t.dir, root, t.apiserver, module, filepath.Join(root, "metaetcdtest"), root)
	return t, err
}

// substitute puts the meta cluster in the place of etcd, and restore undoes it.
func (t *tree) substitute() error { return t.write(t.ours) }
func (t *tree) restore() error    { return t.write(t.original) }

func (t *tree) write(server []byte) error {
	return os.WriteFile(filepath.Join(t.apiserver, serverFile), server, 0o600)
}

func (t *tree) remove() { _ = os.RemoveAll(t.dir) }
