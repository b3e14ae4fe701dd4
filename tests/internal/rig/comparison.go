package rig

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/metaetcd/metaetcd/tests/internal/load"
)

// Sides of a comparison, by their names on the command line.
const (
	Both  = "both"
	Plain = "plain"
	Meta  = "meta"
)

// Comparison is what the command line of a benchmark says of how to compare a plain etcd with a meta cluster.
type Comparison struct {
	Members  int
	Rounds   int           // measured, of each side
	Duration time.Duration // of a round
	Run      *regexp.Regexp
	Sides    string // Both, Plain or Meta
	Procs    bool   // every etcd in a process of its own
	Layout   Layout
	Profiles load.Profiles

	run string
}

// Flags are the command line's; round is the length of a round if it does not say.
func (c *Comparison) Flags(fs *flag.FlagSet, round time.Duration) {
	fs.IntVar(&c.Members, "members", 3, "members of the meta cluster")
	fs.IntVar(&c.Rounds, "rounds", 5, "measured rounds of each side")
	fs.DurationVar(&c.Duration, "round", round, "length of a round")
	fs.StringVar(&c.run, "run", ".", "only benchmarks whose name this regular expression matches")
	fs.StringVar(&c.Sides, "side", Both, "plain, meta or both")
	fs.BoolVar(&c.Procs, "procs", false, "every etcd in a process of its own")
	fs.StringVar(&c.Layout.Dir, "dir", "", "where members and the plain etcd keep their data (default: the system's temporary directory)")
	fs.StringVar(&c.Layout.CoordinatorDir, "coordinator-dir", "/dev/shm", "where the coordinator keeps its data")
	fs.UintVar(&c.Layout.MaxTxnOps, "max-txn-ops", 0, "the etcds' --max-txn-ops; 0: etcd's default")
	c.Profiles.Flags(fs)
}

// Parse parses the command line and checks the flags.
func (c *Comparison) Parse(fs *flag.FlagSet, args []string) (err error) {
	if err := ParseArgs(fs, args); err != nil {
		return err
	}
	if c.Members < 1 || c.Rounds < 1 || c.Duration <= 0 {
		return errors.New("-members, -rounds and -round must be positive")
	}
	if c.Sides != Both && c.Sides != Plain && c.Sides != Meta {
		return fmt.Errorf("no side %q", c.Sides)
	}
	c.Layout.Start = Embed
	if c.Procs {
		c.Layout.Start = Process
	}
	c.Run, err = regexp.Compile(c.run)
	return err
}

// ParseArgs parses a command line that has flags only.
func ParseArgs(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	return nil
}

// Numbers parses the value of a flag that is a list of numbers, with commas between them, none of which is below least.
func Numbers(name, list string, least int) (numbers []int, err error) {
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			return nil, fmt.Errorf("-%s: %q is not a number from %d on", name, s, least)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// Main runs a command until it is done or interrupted, and exits if it fails. Child processes play their role instead.
func Main(roles map[string]Role, command func(ctx context.Context, args []string) error) {
	RunRole(roles)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}
