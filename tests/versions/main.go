// Command versions runs the conformance tests, the recipes and the client's tests on members and coordinators of every supported
// version of etcd, and on a mixture of them, and prints which passed. The etcd that answers are compared with is always the newest.
//
//	make versions
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

func main() { rig.Main(nil, run) }

// suites are packages of the module tests.
var suites = []string{"conformance", "recipes", "client"}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("versions", flag.ContinueOnError)
	only := fs.String("run", "", "only tests that this regular expression matches, as go test has it")
	verbose := fs.Bool("v", false, "print what failing tests wrote")
	mixture := strings.Join(minors, ",")
	of := fs.String("of", strings.Join(minors, " ")+" "+mixture, "versions of coordinator and members, in turn, for each run: 3.5,3.6 is a mixture")
	if err := rig.ParseArgs(fs, args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "metaetcd-versions-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries, err := buildServers(ctx, dir)
	if err != nil {
		return err
	}
	failed := 0
	for versions := range strings.FieldsSeq(*of) {
		var list []string
		for minor := range strings.SplitSeq(versions, ",") {
			if binaries[minor] == "" {
				return fmt.Errorf("etcd %q is not among %v", minor, minors)
			}
			list = append(list, binaries[minor])
		}
		if err := os.Setenv("METAETCDTEST_ETCD", strings.Join(list, string(filepath.ListSeparator))); err != nil {
			return err
		}
		for _, suite := range suites {
			n, err := check(ctx, versions, suite, *only, *verbose)
			if err != nil {
				return err
			}
			failed += n
		}
	}
	if failed > 0 {
		return errors.New("not all passed")
	}
	return nil
}

// check runs a suite on the servers that the environment names, and returns how many of its tests failed.
func check(ctx context.Context, versions, suite, only string, verbose bool) (failed int, err error) {
	o, err := upstream.GoTest(ctx, "", "", only, "github.com/metaetcd/metaetcd/tests/"+suite)
	if err != nil {
		return 0, err
	}
	failed = o.Count(upstream.Fail)
	fmt.Printf("etcd %-12s %-12s %d passed, %d failed\n", versions, suite, o.Count(upstream.Pass), failed)
	for name, verdict := range o.Verdict {
		if verdict == upstream.Fail {
			fmt.Printf("  %s\n", name)
			if verbose {
				fmt.Println(o.Output[name])
			}
		}
	}
	return failed, nil
}
