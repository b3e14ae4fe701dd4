// Command quickstart is a tour of metaetcd in ten seconds. It starts a coordinator and three members, each an etcd of its own,
// opens two clients, and prints what they see.
//
//	make demo
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, 300*time.Millisecond)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// timeLimit is for a tour that hangs.
const timeLimit = 5 * time.Minute

// tour is what the chapters share.
type tour struct {
	out        io.Writer
	slice      time.Duration // how long the clusters that are compared load the machine in turn
	cluster    *cluster
	alice, bob *client
}

// run gives the tour, and leaves nothing behind.
func run(ctx context.Context, out io.Writer, slice time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	begin := time.Now()
	t := &tour{out: out, slice: slice}
	if t.cluster, err = startCluster(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.cluster.remove()) }()
	if t.alice, err = t.cluster.open(ctx, "alice"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.alice.Close()) }()
	if t.bob, err = t.cluster.open(ctx, "bob"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.bob.Close()) }()
	t.say("A coordinator, and the members ash, birch and cedar: four separate etcd clusters. Alice and Bob each opened")
	t.say("a client of the meta cluster that they make, %s after the start.", since(begin))

	for i, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"Writes spread over the members, and there is one revision", t.spread},
		{"A list is sorted, and complete at its revision", t.list},
		{"Compare-and-swap: a race without a loser", t.race},
		{"A watch sees everybody's writes, in order", t.watch},
		{"The past stays readable", t.history},
		{"The coordinator loses everything, and nothing is lost", t.disaster},
		{"128 writers, against one plain etcd on this machine", t.throughput},
	} {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return fmt.Errorf("chapter %d: %w", i+1, err)
		}
	}
	fmt.Fprintf(out, "\nThat was %s. The code is in examples/quickstart; docs/architecture tells how it works.\n", since(begin))
	return nil
}

// say prints a line of the transcript.
func (t *tour) say(format string, args ...any) { fmt.Fprintf(t.out, "   "+format+"\n", args...) }

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
