// Command upstream runs Kubernetes' own storage tests on a plain etcd and on a meta cluster of three members, and prints how
// many passed on each, with every test that did not end alike.
//
//	make kubernetes
//
// First this module's tests, which call the functions that k8s.io/apiserver/pkg/storage/testing exports. Then all tests of the
// packages etcd3 and cacher, private ones included: on a copy of k8s.io/apiserver in which one file is another, the one that
// starts an etcd for a test and returns its client.
package main

import (
	"context"
	"flag"
	"os"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

func main() { rig.Main(nil, run) }

const ownPackage = "github.com/metaetcd/metaetcd/tests/kubernetes"

// suites of k8s.io/apiserver.
var suites = []string{"./pkg/storage/etcd3", "./pkg/storage/cacher"}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("upstream", flag.ContinueOnError)
	only := fs.String("run", "", "only tests that this regular expression matches, as go test has it")
	verbose := fs.Bool("v", false, "print what tests that failed on the meta cluster wrote")
	if err := rig.ParseArgs(fs, args); err != nil {
		return err
	}
	r := &report{out: os.Stdout, verbose: *verbose}

	own, err := upstream.GoTest(ctx, "", "", *only, ownPackage)
	if err != nil {
		return err
	}
	plain, meta := split(own)
	r.compare("RunTest… of pkg/storage/testing", plain, meta)

	tree, err := newTree(ctx)
	if err != nil {
		return err
	}
	defer tree.remove()
	for _, suite := range suites {
		if err := tree.restore(); err != nil {
			return err
		}
		if plain, err = upstream.GoTest(ctx, tree.apiserver, tree.workspace, *only, suite); err != nil {
			return err
		}
		if err := tree.substitute(); err != nil {
			return err
		}
		if meta, err = upstream.GoTest(ctx, tree.apiserver, tree.workspace, *only, suite); err != nil {
			return err
		}
		r.compare("all of "+suite[2:], plain, meta)
	}
	return r.err()
}
