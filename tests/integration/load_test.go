package integration

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// pace is the workers' mean rest between two requests: enough to keep two cores busy.
const pace = 5 * time.Millisecond

// TestLoadBySegments: mixed load on groups of keys that stay on one member each.
func TestLoadBySegments(t *testing.T) {
	b := newBench(t, metaetcd.Sharding{Segments: 1, Slots: 512})
	groups := b.groups()
	underLoad(b, workload.Load{Groups: groups, Pace: pace, Lists: true, Shapes: true, Listens: true, Deletes: true})
}

// TestLoadByKeys: mixed load on keys that are placed one by one, so that every prefix is spread over all members, and pairs of keys
// and deleted groups are.
func TestLoadByKeys(t *testing.T) {
	b := newBench(t, metaetcd.Sharding{Slots: 512})
	groups := b.groups()
	underLoad(b, workload.Load{Groups: groups, Pace: pace, Lists: true, Shapes: true, Listens: true, Deletes: true, Pairs: b.pairs(groups)})
}

// work lets all processes work for a while, and for so many writes at least. It reads the whole past while they do and after, and checks
// what everybody was told.
func (b *bench) work(load workload.Load, d time.Duration, writes int64) *workload.History {
	b.t.Helper()
	from := b.run.Told()
	for _, p := range b.processes {
		p.Work(load)
	}
	b.load(d, writes)
	b.readPast(from, b.run.Told(), pastReads/4) // others still write
	for _, p := range b.processes {
		p.Rest()
	}
	b.join(b.open(b.cluster.DirectConfig())) // has seen nothing of it
	b.readPast(from, b.run.Told(), pastReads)
	h := b.run.Finish()
	h.Check(b.t)
	return h
}

// underLoad is work for tests that are about the order of writes.
func underLoad(b *bench, load workload.Load) {
	t := b.t
	t.Helper()
	h := b.work(load, 2*time.Second, 300)
	late := b.late()
	report(t, h)
	t.Logf("%d writes landed after later ones", late)
	require.NotZero(t, late, "every member was written in order: this test shows less than it should")
}

// pastReads bounds how many past revisions are read at the end.
const pastReads = 600

// readPast reads everything at each past revision, through one process after the other; where there are more than most, at evenly
// spread ones.
func (b *bench) readPast(from, to, most int64) {
	step := max((to-from)/most, 1)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				rev := from + i*step
				if rev > to {
					return
				}
				_ = b.processes[i%int64(len(b.processes))].List(b.t.Context(), rev)
			}
		})
	}
	wg.Wait()
}

// report logs how much was checked.
func report(t *testing.T, h *workload.History) {
	t.Helper()
	listened, resumed, announced, past, deletes := 0, 0, 0, 0, 0
	for _, s := range h.Streams {
		if s.Listed {
			listened++
		}
		if s.Resumed {
			resumed++
		}
		for _, r := range s.Responses {
			if len(r.Events) == 0 {
				announced++
			}
		}
	}
	for _, r := range h.Reads {
		if !r.Present {
			past++
		}
	}
	for _, w := range h.Writes {
		if len(w.Effects) > 1 && w.Effects[0].Delete {
			deletes++
		}
	}
	t.Logf("%d revisions, %d events, %d writes (%d range deletes), %d reads (%d of the past), %d lists and watches from there, %d resumed watches, %d announcements of progress",
		h.Last-h.Base, len(h.Events()), len(h.Writes), deletes, len(h.Reads), past, listened, resumed, announced)
	require.NotZero(t, listened)
	require.NotZero(t, resumed)
	require.NotZero(t, announced)
}

// TestCounters: every acknowledged increment is in the counter, once. All processes count on one key, and each on many.
func TestCounters(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spread  int
		workers int
	}{{"hot", 1, 4}, {"spread", 12, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, metaetcd.Sharding{Slots: 512})
			for _, p := range b.processes {
				for i := range tc.spread {
					p.Count(counter(i), tc.workers, 0)
				}
			}
			time.Sleep(lasting(time.Second))
			for _, p := range b.processes {
				p.Rest()
			}
			counted := map[string]int64{}
			for i := range tc.spread {
				kv, err := b.processes[i%processes].Get(t.Context(), counter(i)+"counter")
				require.NoError(t, err)
				counted[string(kv.Key)] = workload.Number(kv.Value)
			}
			h := b.run.Finish()
			h.Check(t)
			acknowledged, total := map[string]int64{}, 0
			for _, w := range h.Writes {
				require.NotZero(t, w.Rev)
				if key := w.Effects[0].Key; counted[key] > 0 {
					acknowledged[key]++
					total++
				}
			}
			require.Equal(t, acknowledged, counted)
			t.Logf("%d increments on %d counters", total, tc.spread)
		})
	}
}

func counter(i int) string { return fmt.Sprintf("c%d/", i) }

// TestBank: all processes move money among few accounts on all members, and list everything at present and past revisions. At
// each, whether listed or rebuilt from a watch, the total is the same.
func TestBank(t *testing.T) {
	b := newBench(t, metaetcd.Sharding{Slots: 512})
	bank, err := b.processes[0].OpenBank(t.Context(), b.accounts(4), 100)
	require.NoError(t, err)
	h := b.work(workload.Load{Bank: bank, Tellers: 4, Pace: pace, Lists: true}, 3*time.Second, 80)
	bank.Check(t, h)
	transfers, spread := 0, map[int]int{}
	for _, w := range h.Writes {
		on := map[int]bool{}
		for _, e := range w.Effects {
			on[b.ring.MemberOf([]byte(e.Key))] = true
		}
		if len(w.Effects) > 1 {
			transfers++
			spread[len(on)]++
		}
	}
	t.Logf("%d transfers; by the number of members: %v", transfers, spread)
	require.NotZero(t, spread[2])
	require.NotZero(t, spread[3])
}
