package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

// minors are the supported versions of etcd, oldest first. The newest patch of each is in servers/, in a module of its own.
var minors = []string{"3.5", "3.6", "3.7"}

const ownPackage = "github.com/metaetcd/metaetcd/tests/versions"

// buildServers builds etcd's servers into dir and returns the binaries by minor version.
func buildServers(ctx context.Context, dir string) (map[string]string, error) {
	own, err := upstream.Go(ctx, "", nil, "list", "-f", "{{.Dir}}", ownPackage)
	if err != nil {
		return nil, err
	}
	binaries := map[string]string{}
	for _, minor := range minors {
		binaries[minor] = filepath.Join(dir, "etcd-"+minor)
		// Each in its own module, outside of the workspace, which has one version of each.
		if _, err := upstream.Go(ctx, filepath.Join(own, "servers", minor), []string{"GOWORK=off"},
			"build", "-o", binaries[minor], "go.etcd.io/etcd/server/v3"); err != nil {
			return nil, err
		}
	}
	return binaries, nil
}

// install puts a copy of the binary in the place of whatever is there, also while that runs.
func install(binary, path string) error {
	text, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o700); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
