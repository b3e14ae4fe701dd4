// Command bench compares a meta cluster with a plain etcd: the same operations through the same interfaces of clientv3, on the
// same machine, in the same run. Rounds of both take turns, and what is printed as a ratio is the median of the ratios of
// neighbouring rounds, with the smallest and the largest.
//
//	make bench
//	make bench BENCH='-run "put|cas" -rounds 9'
//	make bench BENCH='-run "put, 128" -side meta -cpuprofile /tmp/cpu.pprof'
//
// By default clients and servers share one process, as they share the machine; -procs gives every etcd a process of its own,
// so that profiles and processor times are the client's alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// options are the command line's.
type options struct {
	members  int
	rounds   int
	duration time.Duration
	run      *regexp.Regexp
	sides    string
	procs    bool
	layout   rig.Layout
	profiles load.Profiles
}

func main() {
	rig.RunRole(map[string]rig.Role{rolePutter: putterRole})
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
	fs.DurationVar(&o.duration, "round", time.Second, "length of a round")
	run := fs.String("run", ".", "only benchmarks whose name this regular expression matches")
	fs.StringVar(&o.sides, "side", "both", "plain, meta or both")
	fs.BoolVar(&o.procs, "procs", false, "every etcd in a process of its own")
	fs.StringVar(&o.layout.Dir, "dir", "", "where members and the plain etcd keep their data (default: the system's temporary directory)")
	fs.StringVar(&o.layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	fs.UintVar(&o.layout.MaxTxnOps, "max-txn-ops", 0, "the etcds' --max-txn-ops; 0: etcd's default")
	o.profiles.Flags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	if o.members < 1 || o.rounds < 1 || o.duration <= 0 {
		return nil, errors.New("-members, -rounds and -round must be positive")
	}
	if o.sides != "both" && o.sides != plain.String() && o.sides != meta.String() {
		return nil, fmt.Errorf("no side %q", o.sides)
	}
	var err error
	if o.run, err = regexp.Compile(*run); err != nil {
		return nil, err
	}
	o.layout.Start = rig.Embed
	if o.procs {
		o.layout.Start = rig.Process
	}
	return o, nil
}

func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := printMachine(o); err != nil {
		return err
	}
	stop, err := o.profiles.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	out := &table{w: os.Stdout}
	for _, run := range []func(context.Context, *options, *table) error{runComparisons, runAllocations, runClock, runLeases} {
		if err := run(ctx, o, out); err != nil {
			return err
		}
	}
	return nil
}
