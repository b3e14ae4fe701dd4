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
	"runtime"
	"time"

	"github.com/go-logr/logr"
	"go.etcd.io/etcd/api/v3/version"
	"k8s.io/klog/v2"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// options are the command line's.
type options struct {
	rig.Comparison
	pods int
}

func main() {
	klog.SetLogger(logr.Discard())
	rig.Main(nil, bench)
}

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.Flags(fs, 3*time.Second)
	fs.IntVar(&o.pods, "pods", 10_000, "pods that are there before")
	if err := o.Parse(fs, args); err != nil {
		return nil, err
	}
	if o.pods < namespaces {
		return nil, fmt.Errorf("-pods must be at least %d", namespaces)
	}
	return o, nil
}

// bench starts both sides once, fills them alike and runs all benchmarks on them.
func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var plain, meta *side
	if o.Sides != rig.Meta {
		if plain, err = open(ctx, o, rig.Layout.Plain); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, plain.close()) }()
	}
	if o.Sides != rig.Plain {
		if meta, err = open(ctx, o, func(l rig.Layout) (*rig.Cluster, error) { return l.Meta(o.Members) }); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, meta.close()) }()
	}
	stop, err := o.Profiles.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	fmt.Printf("%d processors, %s, etcd %s; %d members; %d pods of %d bytes; %d rounds of %s\n\n",
		runtime.NumCPU(), runtime.Version(), version.Version, o.Members, o.pods, cmp.Or(plain, meta).podBytes(), o.Rounds, o.Duration)
	title()
	for _, t := range tests {
		if !o.Run.MatchString(t.name) {
			continue
		}
		if err := compare(ctx, o, t, plain, meta); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}
