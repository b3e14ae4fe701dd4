// Command bench compares what an API server does with its storage on a plain etcd and on a meta cluster: the shapes of
// k8s.io/apiserver/pkg/storage/testing/store_benchmarks.go, its pods included, through etcd3 and, for watches, the watch cache.
// Rounds of both sides take turns; the ratio is the median of neighbouring rounds' ratios, with the smallest and the largest.
//
//	make bench-kubernetes
//	make bench-kubernetes BENCH='-run list -rounds 9'
//	make bench-kubernetes BENCH='-run "Update, 64" -side meta -cpuprofile /tmp/cpu.pprof'
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"go.etcd.io/etcd/api/v3/version"
	"k8s.io/klog/v2"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// options are the command line's.
type options struct {
	members  int
	rounds   int
	duration time.Duration
	run      *regexp.Regexp
	pods     int
	sides    string
	layout   rig.Layout
	profiles load.Profiles
}

func main() {
	rig.RunRole(nil)
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.members, "members", 3, "members of the meta cluster")
	fs.IntVar(&o.rounds, "rounds", 5, "measured rounds of each side")
	fs.DurationVar(&o.duration, "round", 3*time.Second, "length of a round")
	fs.IntVar(&o.pods, "pods", 10_000, "pods that are there before")
	run := fs.String("run", ".", "only benchmarks whose name this regular expression matches")
	fs.StringVar(&o.sides, "side", "both", "plain, meta or both")
	procs := fs.Bool("procs", false, "every etcd in a process of its own")
	fs.StringVar(&o.layout.Dir, "dir", "", "where members and the plain etcd keep their data (default: the system's temporary directory)")
	fs.StringVar(&o.layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	o.profiles.Flags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	if o.members < 1 || o.rounds < 1 || o.duration <= 0 || o.pods < namespaces {
		return nil, fmt.Errorf("-members, -rounds and -round must be positive, -pods at least %d", namespaces)
	}
	if !slices.Contains([]string{"both", "plain", "meta"}, o.sides) {
		return nil, fmt.Errorf("no side %q", o.sides)
	}
	o.layout.Start = rig.Embed
	if *procs {
		o.layout.Start = rig.Process
	}
	var err error
	o.run, err = regexp.Compile(*run)
	return o, err
}

// bench starts both sides once, fills them alike and runs all benchmarks on them.
func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var plain, meta *side
	if o.sides != "meta" {
		if plain, err = open(ctx, o, rig.Layout.Plain); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, plain.close()) }()
	}
	if o.sides != "plain" {
		if meta, err = open(ctx, o, func(l rig.Layout) (*rig.Cluster, error) { return l.Meta(o.members) }); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, meta.close()) }()
	}
	stop, err := o.profiles.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	fmt.Printf("%d processors, %s, etcd %s; %d members; %d pods of %d bytes; %d rounds of %s\n\n",
		runtime.NumCPU(), runtime.Version(), version.Version, o.members, o.pods, cmp.Or(plain, meta).podBytes(), o.rounds, o.duration)
	title()
	for _, t := range tests {
		if !o.run.MatchString(t.name) {
			continue
		}
		if err := compare(ctx, o, t, plain, meta); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}
