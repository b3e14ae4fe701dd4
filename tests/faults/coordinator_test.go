package faults

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// rebuildBound is how soon after the coordinator's return every process writes again. It takes a new connection, which is tried
// every half second at least, and some round trips; the rest is for a busy machine.
const rebuildBound = 10 * time.Second

// TestCoordinatorLost: the coordinator stops and comes back with nothing, again and again, under load. Every process notices and
// all of them rebuild the clock at once.
func TestCoordinatorLost(t *testing.T) {
	b := newBench(t, 3)
	for _, p := range b.processes {
		p.Work(b.load())
	}
	var back []time.Duration
	for range rounds(3) {
		epoch := b.epoch()
		b.cluster.Coordinator.Stop()
		b.requireKnownReads()
		time.Sleep(rand.N(200 * time.Millisecond))
		b.cluster.Coordinator.Wipe()
		b.cluster.Coordinator.Start()
		back = append(back, b.writesAgain())
		require.Greater(t, b.epoch(), epoch)
		time.Sleep(rand.N(500 * time.Millisecond))
	}
	b.finish()
	t.Logf("%d coordinators lost: all processes write again after %s (median), %s (worst)", len(back), median(back), slices.Max(back))
	require.Less(t, slices.Max(back), rebuildBound)
}

// TestCoordinatorLostWhileRebuilding: it is lost again between two steps of the rebuilding of its clock, which a slow way to it
// drags out.
func TestCoordinatorLostWhileRebuilding(t *testing.T) {
	b := newBench(t, 3)
	for _, p := range b.processes {
		p.Work(b.load())
	}
	b.cluster.Coordinator.Delay(10 * time.Millisecond)
	var unfinished int
	for range rounds(6) {
		b.cluster.Coordinator.Stop()
		b.cluster.Coordinator.Wipe()
		b.drainSteps()
		b.cluster.Coordinator.Start()
		// Three processes take three steps each, or fewer where one was ahead of the others.
		if b.awaitSteps(1 + rand.N(9)) {
			unfinished++
		}
	}
	b.cluster.Coordinator.Delay(0)
	require.Less(t, b.writesAgain(), rebuildBound)
	t.Logf("%d coordinators lost, %d of them in the middle of rebuilding", rounds(6), unfinished)
	b.finish()
}

// drainSteps forgets the steps of rebuilding that were made.
func (b *bench) drainSteps() {
	for {
		select {
		case <-b.steps:
		default:
			return
		}
	}
}

// awaitSteps waits for n steps of rebuilding. It reports false if all processes were done before.
func (b *bench) awaitSteps(n int) bool {
	for range n {
		select {
		case <-b.steps:
		case <-time.After(2 * time.Second):
			return false
		}
	}
	return true
}

// TestCoordinatorAway: the coordinator restarts with its data, or is cut off for a while. The clock goes on where it was.
func TestCoordinatorAway(t *testing.T) {
	b := newBench(t, 3)
	for _, p := range b.processes {
		p.Work(b.load())
	}
	epoch, c := b.epoch(), b.cluster.Coordinator
	for range rounds(1) {
		for _, f := range []struct{ begin, end func() }{{c.Stop, c.Start}, {c.Cut, c.Heal}, {c.Refuse, c.Heal}} {
			time.Sleep(rand.N(300 * time.Millisecond))
			f.begin()
			b.requireKnownReads()
			time.Sleep(time.Second)
			f.end()
			require.Less(t, b.writesAgain(), rebuildBound)
		}
	}
	require.Equal(t, epoch, b.epoch(), "the clock was rebuilt without need")
	b.finish()
}

// epoch is the clock's, as headers show it.
func (b *bench) epoch() uint64 {
	b.t.Helper()
	resp, err := b.processes[0].meta.Get(b.t.Context(), "any")
	require.NoError(b.t, err)
	return resp.Header.RaftTerm
}

// requireKnownReads: what a process knows can be read without the coordinator.
func (b *bench) requireKnownReads() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), workload.Patience)
	defer cancel()
	for _, p := range b.processes {
		require.NoError(b.t, p.ListKnown(ctx))
	}
}

// writesAgain returns how long it takes until every process has written on every member.
func (b *bench) writesAgain() time.Duration {
	b.t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(b.t.Context(), workload.Patience)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range b.processes {
		for _, groups := range b.groups {
			g.Go(func() error {
				_, err := p.Put(ctx, groups[0]+"k0")
				return err
			})
		}
	}
	require.NoError(b.t, g.Wait())
	return time.Since(begin)
}
