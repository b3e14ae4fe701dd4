// Command etcdsuite runs etcd's own integration tests of KV, Watch, Lease and the recipes on a plain etcd and on a meta cluster,
// and prints how many pass on each. It fails if a test ends otherwise than suite/expectations.txt says.
//
//	make etcdsuite
//	go run . -side meta -run 'TestLease' integration/clientv3/lease
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"

	"github.com/metaetcd/metaetcd/tests/etcdsuite/suite"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

func main() { rig.Main(nil, run) }

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("etcdsuite", flag.ContinueOnError)
	r := &runner{out: os.Stdout}
	only := fs.String("run", "", "only test functions whose package and name, with a space between, match this regular expression")
	side := fs.String("side", "both", "plain, meta or both")
	fs.IntVar(&r.count, "count", 1, "how often each test is run")
	fs.IntVar(&r.parallel, "p", runtime.GOMAXPROCS(0), "how many tests run at once")
	fs.BoolVar(&r.race, "race", false, "build with the race detector")
	fs.BoolVar(&r.verbose, "v", false, "print what failing tests wrote")
	fs.BoolVar(&r.all, "all", false, "also the tests that are left out")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if r.packages = fs.Args(); len(r.packages) == 0 {
		r.packages = suite.Packages
	}
	var err error
	if r.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if r.expected, err = suite.Expected(); err != nil {
		return err
	}
	switch *side {
	case "plain":
		return r.run(ctx, false)
	case "meta":
		return r.run(ctx, true)
	case "both":
		if err := r.run(ctx, false); err != nil {
			return err
		}
		return r.run(ctx, true)
	}
	return fmt.Errorf("no such side: %q", *side)
}
