// Package tree makes a copy of etcd's module of integration tests, go.etcd.io/etcd/tests/v3, in a temporary folder, and changes
// it there: what its framework starts is an etcd cluster with a meta cluster in front. No test is changed but for the examples,
// which dial by themselves. Every change looks for the text that it is about, and fails if etcd has another.
package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

const (
	module      = "go.etcd.io/etcd/tests/v3"
	etcdModule  = "go.etcd.io/etcd/client/v3" // its version is the one that is tested
	cacheModule = "go.etcd.io/etcd/cache/v3"  // the module proxy does not have it; one file of tests needs it
	cacheTests  = "integration/cache_test.go"
)

// parts of the module that are copied.
var parts = []string{"common", "fixtures", "framework", "integration"}

// Tree is the copy. It is removed by Remove.
type Tree struct {
	Dir       string // of the module
	Workspace string // the go.work file
	temp      string
}

// New copies the module, for a plain etcd or for the meta cluster.
func New(ctx context.Context, meta bool) (_ *Tree, err error) {
	source, err := download(ctx)
	if err != nil {
		return nil, err
	}
	own, err := upstream.Go(ctx, "", nil, "list", "-f", "{{.Module.Dir}}", "github.com/metaetcd/metaetcd/tests/etcdsuite/tree")
	if err != nil {
		return nil, err
	}
	t := &Tree{}
	if t.temp, err = os.MkdirTemp("", "metaetcd-etcdsuite-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.Remove()
		}
	}()
	t.Dir = filepath.Join(t.temp, "tests")
	if err := errors.Join(t.copyFrom(source), t.freeModule(ctx)); err != nil {
		return nil, err
	}
	if meta {
		if err := t.substitute(); err != nil {
			return nil, err
		}
	}
	root := filepath.Dir(filepath.Dir(own))
	t.Workspace, err = upstream.WriteWorkspace(t.temp, root, t.Dir, own, filepath.Join(root, "tests"), filepath.Join(root, "metaetcdtest"), root)
	return t, err
}

// download returns the module's folder in the module cache.
func download(ctx context.Context) (string, error) {
	version, err := upstream.Go(ctx, "", nil, "list", "-m", "-f", "{{.Version}}", etcdModule)
	if err != nil {
		return "", err
	}
	// Outside of any module: the module asks for one that the proxy does not have.
	answer, err := upstream.Go(ctx, os.TempDir(), []string{"GOWORK=off", "GOFLAGS=-mod=mod"}, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, answer)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		return "", err
	}
	return got.Dir, nil
}

func (t *Tree) copyFrom(source string) error {
	for _, part := range parts {
		if err := os.CopyFS(filepath.Join(t.Dir, part), os.DirFS(filepath.Join(source, part))); err != nil {
			return err
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(t.Dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(t.Dir, cacheTests))
}

// freeModule takes from go.mod what holds inside of etcd's repository only, and the module that cannot be had.
func (t *Tree) freeModule(ctx context.Context) error {
	text, err := upstream.Go(ctx, t.Dir, []string{"GOWORK=off"}, "mod", "edit", "-json")
	if err != nil {
		return err
	}
	var file struct {
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal([]byte(text), &file); err != nil {
		return err
	}
	edits := []string{"mod", "edit", "-toolchain=none", "-droprequire=" + cacheModule}
	for _, r := range file.Replace {
		edits = append(edits, "-dropreplace="+r.Old.Path)
	}
	_, err = upstream.Go(ctx, t.Dir, []string{"GOWORK=off"}, edits...)
	return err
}

// Remove removes the copy.
func (t *Tree) Remove() { _ = os.RemoveAll(t.temp) }
