package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	// away is how long a member is away.
	away = 2 * time.Second
	// aside is how long a request may take that needs nothing of what is broken.
	aside = time.Second
)

// TestMemberAway: one member after the other restarts, or is cut off for two seconds, under load. Reads and writes of single keys
// on the others go on meanwhile.
func TestMemberAway(t *testing.T) {
	b := newBench(t, 3)
	var outages []outage
	for _, p := range b.processes {
		p.Work(b.load())
		for _, groups := range b.groups {
			p.Probe(groups[0]+"probe", 20*time.Millisecond)
		}
	}
	for range rounds(1) {
		for m, node := range b.cluster.Members {
			f := []struct {
				name       string
				begin, end func()
			}{{"restarts", node.Stop, node.Start}, {"is cut off", node.Cut, node.Heal}, {"refuses", node.Refuse, node.Heal}}[m]
			time.Sleep(500 * time.Millisecond)
			o := outage{name: node.Name() + " " + f.name, member: m, Span: workload.Span{Begin: time.Now()}}
			f.begin()
			time.Sleep(away)
			f.end()
			o.End = time.Now()
			outages = append(outages, o)
			t.Logf("%s: everything goes on after %s", o.name, b.writesAgain())
		}
	}
	h := b.finish()
	for _, o := range outages {
		b.requireAside(h, o)
	}
	settled := 0
	for _, p := range b.processes {
		settled += p.logs.FilterMessageSnippet("settling").Len()
	}
	t.Logf("%d member transactions were settled", settled)
	require.NotZero(t, settled, "no answer was lost: this test shows less than it should")
}

// outage is a time in which a member was away.
type outage struct {
	name   string
	member int
	workload.Span
}

// requireAside requires that single keys on the other members were read and written, quickly, all through an outage.
func (b *bench) requireAside(h *workload.History, o outage) {
	b.t.Helper()
	for m, groups := range b.groups {
		if m == o.member {
			continue
		}
		key := groups[0] + "probe"
		var reads, writes []time.Duration
		for _, r := range h.Reads {
			if r.Present && r.Key == key && r.Begin.Before(o.End) && r.End.After(o.Begin) {
				reads = append(reads, r.Took())
			}
		}
		for _, w := range h.Writes {
			if w.Effects[0].Key == key && w.Begin.Before(o.End) && w.End.After(o.Begin) {
				writes = append(writes, w.Took())
			}
		}
		require.NotEmpty(b.t, reads)
		require.NotEmpty(b.t, writes)
		b.t.Logf("%s: on member %d: %d reads, median %s, worst %s; %d writes, median %s, worst %s", o.name, m,
			len(reads), median(reads), slices.Max(reads), len(writes), median(writes), slices.Max(writes))
		require.Less(b.t, slices.Max(reads), aside)
		require.Less(b.t, slices.Max(writes), aside)
	}
}
