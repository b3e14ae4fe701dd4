package faults

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// away is how long a member is cut off.
	away = 2 * time.Second
	// down is how long a member is stopped: longer than clientv3 goes on asking a server that is not there.
	down = 4 * time.Second
	// aside is how long a request may take that needs nothing of what is broken, beside what a few requests in turn take on a
	// machine that is slow or busy.
	aside = time.Second
	aFew  = 6 // the members are looked at, once or twice; a stamp, and the fenced read; and what is in front of these
)

// TestMemberAway: one member after the other is stopped for a while, or cut off for two seconds, under load; once its connections
// survive that, and once they are reset. Reads and writes of single keys on the others go on meanwhile.
func TestMemberAway(t *testing.T) {
	b := newBench(t, 3)
	usual := b.readDirectly()
	for _, p := range b.processes {
		p.Work(b.load())
		for _, groups := range b.groups {
			p.Probe(groups[0]+"probe", 2*pace)
		}
	}
	var outages []outage
	for round := range rounds(1) {
		for i := range members {
			time.Sleep(500 * time.Millisecond)
			o := b.takeAway((i+round)%members, faultsOfMembers[i])
			outages = append(outages, o)
			t.Logf("%s: everything goes on after %s", o, b.writesAgain())
		}
	}
	h := b.finish()
	machine := usual()
	for _, o := range outages {
		b.requireAside(h, o, o.slowest(machine))
	}
	settled := b.settled()
	t.Logf("%d member transactions were settled", settled)
	require.NotZero(t, settled, "no outcome was unknown: this test shows less than it should")
}

// memberFault takes a member away and brings it back.
type memberFault struct {
	name       string
	lasts      time.Duration
	begin, end func(n *metaetcdtest.Node)
}

var faultsOfMembers = [members]memberFault{
	{"restarts", down, (*metaetcdtest.Node).Stop, (*metaetcdtest.Node).Start},
	{"is cut off", away, (*metaetcdtest.Node).Cut, (*metaetcdtest.Node).Heal},
	{"is cut off and resets", away, cutFarAway, func(n *metaetcdtest.Node) {
		n.Refuse() // what was on its way is lost
		n.Heal()
	}},
}

// cutFarAway cuts a member off while requests and answers are on their way, as there always are over a distance.
func cutFarAway(n *metaetcdtest.Node) {
	n.Delay(pace)
	time.Sleep(10 * pace)
	n.Cut()
	n.Delay(0)
}

// takeAway takes a member away for a while.
func (b *bench) takeAway(member int, f memberFault) outage {
	b.t.Helper()
	n := b.cluster.Members[member]
	o := outage{fault: f, member: member, Span: workload.Span{Begin: time.Now()}}
	f.begin(n)
	time.Sleep(f.lasts)
	f.end(n)
	o.End = time.Now()
	return o
}

// TestLeaderLost: members of three servers each lose their leaders under load, one member after the other.
func TestLeaderLost(t *testing.T) {
	if !long() {
		t.Skip("ten servers are too many for a short test")
	}
	b := newBench(t, 2, metaetcdtest.WithServers(3))
	for _, p := range b.processes {
		p.Work(b.load())
	}
	for range rounds(1) {
		for _, n := range b.cluster.Members {
			leader := n.Leader()
			n.StopServer(leader)
			t.Logf("%s lost its leader: everything goes on after %s", n.Name(), b.writesAgain())
			n.StartServer(leader)
			time.Sleep(500 * time.Millisecond)
		}
	}
	b.finish()
	t.Logf("%d member transactions were settled", b.settled())
}

// outage is a time in which a member was away.
type outage struct {
	fault  memberFault
	member int
	workload.Span
}

func (o outage) String() string { return fmt.Sprintf("member %d %s", o.member, o.fault.name) }

func (o outage) overlaps(s workload.Span) bool { return s.Begin.Before(o.End) && s.End.After(o.Begin) }

// slowest is the longest span that the outage overlaps, of those of the other members.
func (o outage) slowest(spans [][]workload.Span) time.Duration {
	var longest time.Duration
	for m := range spans {
		for _, s := range spans[m] {
			if m != o.member && o.overlaps(s) {
				longest = max(longest, s.Took())
			}
		}
	}
	return longest
}

// readDirectly reads from each member, around everything that is broken and without metaetcd: what a request takes on this
// machine at that time. The result ends it and returns each member's reads.
func (b *bench) readDirectly() func() [][]workload.Span {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	var g errgroup.Group
	spans := make([][]workload.Span, members)
	for i, m := range b.cluster.Members {
		cli := m.DirectClient(b.t)
		g.Go(func() error {
			for ctx.Err() == nil {
				begin := time.Now()
				if _, err := cli.Get(ctx, "any"); err == nil { // it may be stopped
					spans[i] = append(spans[i], workload.Span{Begin: begin, End: time.Now()})
				}
				time.Sleep(2 * pace)
			}
			return nil
		})
	}
	return func() [][]workload.Span {
		cancel()
		_ = g.Wait()
		return spans
	}
}

// requireAside requires that single keys on the other members were read and written all through an outage, and how quickly:
// machine is the slowest request of the time that had nothing to do with the outage.
func (b *bench) requireAside(h *workload.History, o outage, machine time.Duration) {
	b.t.Helper()
	for m, groups := range b.groups {
		if m == o.member {
			continue
		}
		key := groups[0] + "probe"
		var reads, writes []time.Duration
		for _, r := range h.Reads {
			if r.Present && r.Key == key && o.overlaps(r.Span) {
				reads = append(reads, r.Took())
			}
		}
		for _, w := range h.Writes {
			if w.Effects[0].Key == key && o.overlaps(w.Span) {
				writes = append(writes, w.Took())
			}
		}
		require.NotEmpty(b.t, reads)
		require.NotEmpty(b.t, writes)
		b.t.Logf("%s: on member %d: %d reads, median %s, worst %s; %d writes, median %s, worst %s; reads without metaetcd, worst %s",
			o, m, len(reads), median(reads), slices.Max(reads), len(writes), median(writes), slices.Max(writes), machine)
		for _, took := range [][]time.Duration{reads, writes} {
			require.Less(b.t, quantile(took, 0.9), aside+aFew*machine)
			require.Less(b.t, slices.Max(took), 2*aside+aFew*machine, "a whole member that somebody holds, besides")
		}
	}
}
