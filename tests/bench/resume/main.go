// Command resume shows what it costs to get what was missed: watchers after a member was away, watchers from the past, and the first
// read of an old revision. Every etcd is a process of the operating system. A plain etcd and a meta cluster take turns.
//
//	make bench-resume
//	make bench-resume RESUME='-run outage -side meta -outage 300s -watchers 1'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

type options struct {
	run       *regexp.Regexp
	sides     []string
	members   int
	rounds    int
	watchers  []int
	outage    time.Duration
	rate      int
	size      int
	behind    int
	revisions int
	layout    rig.Layout
}

// row is what one measurement shows.
type row struct {
	took     time.Duration
	received int64 // bytes meanwhile
	text     string
}

// benchmark is one row of the table, for each side.
type benchmark struct {
	name string
	run  func(ctx context.Context, c *rig.Cluster) (*row, error)
}

func main() { rig.Main(map[string]rig.Role{roleWrite: writeRole}, compare) }

func parse(args []string) (*options, error) {
	o := &options{layout: rig.Layout{Start: rig.Process}}
	fs := flag.NewFlagSet("resume", flag.ContinueOnError)
	run := fs.String("run", ".", "only rows whose name this regular expression matches")
	side := fs.String("side", rig.Both, "plain, meta or both")
	watchers := fs.String("watchers", "1,20,100", "numbers of watchers")
	fs.IntVar(&o.members, "members", 3, "members of the meta cluster")
	fs.IntVar(&o.rounds, "rounds", 3, "measured rounds of each row; the median is shown")
	fs.DurationVar(&o.outage, "outage", 25*time.Second, "how long a member is away")
	fs.IntVar(&o.rate, "rate", 2000, "puts per second meanwhile")
	fs.IntVar(&o.size, "size", 1024, "bytes of a value put meanwhile")
	fs.IntVar(&o.behind, "behind", 30_000, "events that watchers from the past lack")
	fs.IntVar(&o.revisions, "revisions", 300_000, "revisions behind which an old one is read")
	fs.StringVar(&o.layout.Dir, "dir", "", "where members and the plain etcd keep their data (default: the system's temporary directory)")
	fs.StringVar(&o.layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	if err := rig.ParseArgs(fs, args); err != nil {
		return nil, err
	}
	var err error
	if o.run, err = regexp.Compile(*run); err != nil {
		return nil, err
	}
	for s := range strings.SplitSeq(*watchers, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-watchers: %q is not a number of watchers", s)
		}
		o.watchers = append(o.watchers, n)
	}
	switch *side {
	case rig.Both:
		o.sides = []string{rig.Plain, rig.Meta}
	case rig.Plain, rig.Meta:
		o.sides = []string{*side}
	default:
		return nil, fmt.Errorf("no side %q", *side)
	}
	if o.rounds < 1 || o.rate < 1 || o.size < 1 || o.behind < 1 || o.revisions < 1 || o.members < 2 || o.outage <= 0 {
		return nil, errors.New("numbers must be positive, and there must be two members")
	}
	return o, nil
}

func (o *options) benchmarks() []benchmark {
	var all []benchmark
	for _, n := range o.watchers {
		all = append(all, benchmark{fmt.Sprintf("outage, %d watchers", n), func(ctx context.Context, c *rig.Cluster) (*row, error) { return o.outageOf(ctx, c, n) }})
	}
	for _, n := range o.watchers {
		all = append(all, benchmark{fmt.Sprintf("past, %d watchers of a key", n), func(ctx context.Context, c *rig.Cluster) (*row, error) { return o.past(ctx, c, n, true) }})
	}
	for _, n := range o.watchers {
		all = append(all, benchmark{fmt.Sprintf("past, %d watchers of all", n), func(ctx context.Context, c *rig.Cluster) (*row, error) { return o.past(ctx, c, n, false) }})
	}
	all = append(all, benchmark{"first get at an old revision", o.firstGet})
	return slices.DeleteFunc(all, func(b benchmark) bool { return !o.run.MatchString(b.name) })
}

func (o *options) servers(side string) (*rig.Cluster, error) {
	if side == rig.Plain {
		return o.layout.Plain()
	}
	return o.layout.Meta(o.members)
}

func compare(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "\tside\tms (min … max)\t× plain\treceived MiB\t\t")
	for _, b := range o.benchmarks() {
		rows := map[string][]*row{}
		for range o.rounds {
			for _, side := range o.sides {
				r, err := o.round(ctx, side, b)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", b.name, side, err)
				}
				rows[side] = append(rows[side], r)
			}
		}
		plain := time.Duration(0)
		for _, side := range o.sides {
			of := rows[side]
			slices.SortFunc(of, func(a, b *row) int { return int(a.took - b.took) })
			median, ratio := of[len(of)/2], ""
			if side == rig.Plain {
				plain = median.took
			} else if plain > 0 {
				ratio = fmt.Sprintf("%.2f", float64(median.took)/float64(plain))
			}
			fmt.Fprintf(out, "%s\t%s\t%s (%s … %s)\t%s\t%.2f\t%s\t\n", b.name, side, ms(median.took), ms(of[0].took), ms(of[len(of)-1].took), ratio,
				float64(median.received)/(1<<20), median.text)
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// round measures a row once, on servers of its own.
func (o *options) round(ctx context.Context, side string, b benchmark) (_ *row, err error) {
	cluster, err := o.servers(side)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	runtime.GC()
	return b.run(ctx, cluster)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
