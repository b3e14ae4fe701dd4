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
	"os"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// options are the command line's.
type options struct{ rig.Comparison }

func main() { rig.Main(map[string]rig.Role{rolePutter: putterRole}, bench) }

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.Flags(fs, time.Second)
	return o, o.Parse(fs, args)
}

func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := printMachine(o); err != nil {
		return err
	}
	stop, err := o.Profiles.Start()
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
