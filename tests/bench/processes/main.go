// Command processes shows what many processes cost that do next to nothing, beside one that writes. Each reads a key once a second and
// watches another one; the writer is offered so many puts a second. Every one of them, and every etcd, is a process of
// the operating system. A plain etcd and a meta cluster take turns.
//
//	make bench-processes
//	make bench-processes PROCESSES='-processes 50 -side meta -round 20s'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

type options struct {
	processes []int
	members   int
	sides     []string
	rate      int
	size      int
	warmup    time.Duration
	duration  time.Duration
	layout    rig.Layout
}

func main() { rig.Main(map[string]rig.Role{roleIdle: idleRole}, compare) }

func parse(args []string) (*options, error) {
	o := &options{layout: rig.Layout{Start: rig.Process}}
	fs := flag.NewFlagSet("processes", flag.ContinueOnError)
	processes := fs.String("processes", "1,5,20,50", "numbers of nearly idle processes")
	side := fs.String("side", rig.Both, "plain, meta or both")
	fs.IntVar(&o.members, "members", 3, "members of the meta cluster")
	fs.IntVar(&o.rate, "rate", 2000, "puts per second that the writer is offered")
	fs.IntVar(&o.size, "size", 1024, "bytes of a value")
	fs.DurationVar(&o.warmup, "warmup", 2*time.Second, "writing before it counts")
	fs.DurationVar(&o.duration, "round", 8*time.Second, "writing that counts, of each row")
	fs.StringVar(&o.layout.Dir, "dir", "", "where members and the plain etcd keep their data (default: the system's temporary directory)")
	fs.StringVar(&o.layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	if err := rig.ParseArgs(fs, args); err != nil {
		return nil, err
	}
	var err error
	if o.processes, err = rig.Numbers("processes", *processes, 0); err != nil {
		return nil, err
	}
	switch *side {
	case rig.Both:
		o.sides = []string{rig.Plain, rig.Meta}
	case rig.Plain, rig.Meta:
		o.sides = []string{*side}
	default:
		return nil, fmt.Errorf("no side %q", *side)
	}
	if o.rate < 1 || o.size < 1 || o.duration <= 0 {
		return nil, errors.New("-rate, -size and -round must be positive")
	}
	return o, nil
}

func compare(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "processes\tside\tputs/s\t× plain\tput p50\tp99\tevent p50\tp99\tget p50\tp99\traises\tfenced\tfenced reads\treceived KiB/s\t")
	for _, n := range o.processes {
		plain := 0.0
		for _, side := range o.sides {
			r, err := o.run(ctx, side, n)
			if err != nil {
				return fmt.Errorf("%s, %d processes: %w", side, n, err)
			}
			ratio := "" // to a plain etcd's of the same run
			if side == rig.Plain {
				plain = r.Rate
			} else if plain > 0 {
				ratio = fmt.Sprintf("%.2f", r.Rate/plain)
			}
			fmt.Fprintf(out, "%d\t%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t\n", n, side, r.Rate, ratio,
				short(r.Puts.Quantile(0.5)), short(r.Puts.Quantile(0.99)), short(r.Events.Quantile(0.5)), short(r.Events.Quantile(0.99)),
				short(r.Gets.Quantile(0.5)), short(r.Gets.Quantile(0.99)), r.Raises, r.Fenced, r.FencedReads, r.Received/1024)
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// short is a duration with about three digits.
func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
