//go:build linux

// Command scale shows what sharding is for: when disks are the limit, N members write N times as much as one etcd.
//
// Every etcd is a process of its own, in a control group that throttles what it may write to the disk; the coordinator is on a
// tmpfs and not throttled. The same writers saturate one plain etcd, then meta clusters of several sizes, then the plain etcd
// again. Next to the throughput stands what a user's write costs the disk, as the control groups count it.
//
// It needs Linux, root and cgroup v1's blkio controller, and says so where they are missing.
//
//	make bench-scale
//	make bench-scale SCALE='-members 4 -iops 200 -bps 0 -writers 8192'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// aim is the share of N times plain's throughput that N members should reach.
const aim = 0.9

type options struct {
	members  []int
	writers  int
	limits   limits
	warmup   time.Duration
	duration time.Duration
	layout   rig.Layout
}

func main() { rig.Main(nil, scale) }

func parse(args []string) (*options, error) {
	o := &options{layout: rig.Layout{Start: rig.Process}}
	fs := flag.NewFlagSet("scale", flag.ContinueOnError)
	members := fs.String("members", "1,2,4", "sizes of the meta clusters")
	fs.IntVar(&o.writers, "writers", 4096, "concurrent writers")
	fs.Int64Var(&o.limits.bytes, "bps", 1<<20, "bytes per second that each etcd may write; 0: any")
	fs.Int64Var(&o.limits.operations, "iops", 0, "write operations per second of each etcd; 0: any")
	fs.UintVar(&o.layout.MaxTxnOps, "max-txn-ops", 1024, "the etcds' --max-txn-ops, which bounds how many writes travel together; 0: etcd's default")
	fs.DurationVar(&o.warmup, "warmup", 5*time.Second, "writing before it counts")
	fs.DurationVar(&o.duration, "duration", 15*time.Second, "writing that counts")
	fs.StringVar(&o.layout.Dir, "dir", os.TempDir(), "where members and the plain etcd keep their data: a disk")
	fs.StringVar(&o.layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	if err := rig.ParseArgs(fs, args); err != nil {
		return nil, err
	}
	var err error
	if o.members, err = rig.Numbers("members", *members, 1); err != nil {
		return nil, err
	}
	if o.writers < 1 || o.duration <= 0 || o.limits.bytes < 0 || o.limits.operations < 0 {
		return nil, errors.New("-writers and -duration must be positive, limits not negative")
	}
	return o, nil
}

func scale(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	t, err := newThrottle(o.layout.Dir, o.limits)
	if errors.Is(err, errUnavailable) {
		fmt.Println("skipped:", err)
		return nil
	}
	if err != nil {
		return err
	}
	o.layout.Cgroup = t.group
	o.title(t)

	sizes := append(append([]int{0}, o.members...), 0)
	var runs []*run
	for _, members := range sizes {
		r, err := o.run(ctx, t, members)
		if err != nil {
			return err
		}
		runs = append(runs, r)
		r.print()
	}
	printRatios(runs)
	return nil
}
