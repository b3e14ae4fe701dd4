package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// TestLeadersKilledFrozenAndMoved: all clusters have three servers, and on each of them, beside each other, leaders are killed, frozen or
// moved, and followers frozen, one server at a time. No write that was acknowledged is lost, and no caller sees an error.
func TestLeadersKilledFrozenAndMoved(t *testing.T) {
	b := newBench(t, 2, metaetcdtest.WithProcesses(), metaetcdtest.WithServers(3), metaetcdtest.WithCoordinatorServers(3))
	for _, p := range b.processes {
		load := b.load()
		load.Pace = 5 * pace
		p.Work(load)
	}
	lasts := 15 * time.Second
	if long() {
		lasts = 3 * time.Minute
	}
	struck := map[string]int{}
	var nodes []*struckNode
	for _, n := range b.cluster.Nodes() {
		nodes = append(nodes, &struckNode{Node: n})
	}
	for until := time.Now().Add(lasts); time.Now().Before(until); time.Sleep(pace) {
		for _, n := range nodes {
			if what := n.goOn(t); what != "" {
				struck[what]++
			}
		}
	}
	for _, n := range nodes {
		n.heal()
	}
	t.Logf("everything goes on after %s", b.writesAgain())
	h := b.finish()
	var reads, writes []time.Duration
	for _, r := range h.Reads {
		if r.Present {
			reads = append(reads, r.Took())
		}
	}
	for _, w := range h.Writes {
		writes = append(writes, w.Took())
	}
	t.Logf("%v; %d reads, median %s, worst %s; %d writes, median %s, worst %s; %d member transactions were settled", struck,
		len(reads), median(reads), slices.Max(reads), len(writes), median(writes), slices.Max(writes), b.settled())
}

// struckNode is a node one of whose servers is struck now and then.
type struckNode struct {
	*metaetcdtest.Node
	next time.Time // something happens to it, or ends
	end  func()    // what lasts; nil: nothing
}

// goOn ends what lasts, or lets something happen, if it is time, and returns what.
func (n *struckNode) goOn(t *testing.T) (what string) {
	t.Helper()
	if time.Now().Before(n.next) {
		return ""
	}
	if n.end == nil {
		what = n.strike(t)
	} else {
		n.heal()
	}
	n.next = time.Now().Add(time.Second + rand.N(4*time.Second))
	return what
}

func (n *struckNode) heal() {
	if n.end != nil {
		n.end()
	}
	n.end = nil
}

func (n *struckNode) strike(t *testing.T) string {
	t.Helper()
	if rand.IntN(4) == 0 {
		if err := moveLeader(t, n.Node); err != nil {
			return "" // it has moved by itself
		}
		return "the leader is moved"
	}
	f := serverFaults[rand.IntN(len(serverFaults))]
	i := f.strike(t, n.Node)
	n.end = func() { f.end(n.Node, i) }
	return f.name
}

// moveLeader makes another server of a node its leader.
func moveLeader(t *testing.T, n *metaetcdtest.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), workload.Patience)
	defer cancel()
	cli := n.Client(t)
	defer func() { _ = cli.Close() }()
	list, err := cli.MemberList(ctx)
	if err != nil {
		return err
	}
	status, err := cli.Status(ctx, cli.Endpoints()[0])
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if m.ID != status.Leader {
			return moveTo(ctx, cli, m.ID)
		}
	}
	return errors.New("a single server")
}

// moveTo asks one server after the other: the leader alone does it.
func moveTo(ctx context.Context, cli *clientv3.Client, id uint64) (err error) {
	for range 2 * len(cli.Endpoints()) {
		if _, err = cli.MoveLeader(ctx, id); err == nil {
			return nil
		}
	}
	return err
}
