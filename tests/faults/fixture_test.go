package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	members         = 3
	groupsPerMember = 2
)

// sharding keeps a group of keys on one member.
var sharding = metaetcd.Sharding{Segments: 1}

// pace is the workers' in most tests. Two or three processes with six workers each leave a machine of two cores little to spare,
// the race detector included.
const pace = 10 * time.Millisecond

// bench is a meta cluster under load.
type bench struct {
	t       *testing.T
	cluster *metaetcdtest.Cluster
	groups  [][]string // of each member: groups of keys that live there
	run     *workload.Run
	steps   chan struct{} // see wire

	processes []*process
}

// process is one process of the meta cluster.
type process struct {
	*workload.Client
	meta *metaetcd.Client
	wire *wire
	logs *observer.ObservedLogs
	end  func() // closes it

	metrics *prometheus.Registry
}

// newBench starts the servers and n processes, without load.
func newBench(t *testing.T, n int, opts ...metaetcdtest.Option) *bench {
	t.Helper()
	opts = append(opts, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(sharding))
	b := &bench{t: t, cluster: metaetcdtest.New(t, members, opts...), groups: make([][]string, members), steps: make(chan struct{}, 64)}
	first := b.open()
	b.findGroups(first.meta)
	b.run = workload.Start(t, first.meta)
	b.join(first, "p0")
	for i := 1; i < n; i++ {
		b.join(b.open(), fmt.Sprintf("p%d", i))
	}
	return b
}

// findGroups finds groups of keys on each member. Keys are stored under their own names, so the members themselves show where.
func (b *bench) findGroups(cli clientv3.KV) {
	b.t.Helper()
	var direct []*clientv3.Client
	for _, m := range b.cluster.Members {
		direct = append(direct, m.DirectClient(b.t))
	}
	for i := 0; slices.ContainsFunc(b.groups, func(g []string) bool { return len(g) < groupsPerMember }); i++ {
		group := fmt.Sprintf("g%d/", i)
		_, err := cli.Put(b.t.Context(), group+"k0", "")
		require.NoError(b.t, err)
		for m, d := range direct {
			resp, err := d.Get(b.t.Context(), group+"k0")
			require.NoError(b.t, err)
			if len(resp.Kvs) > 0 && len(b.groups[m]) < groupsPerMember {
				b.groups[m] = append(b.groups[m], group)
			}
		}
	}
}

func (b *bench) all() []string { return slices.Concat(b.groups...) }

// load is what a process does in most tests: everything, everywhere. Pairs of keys lie on different members; they keep away from
// each member's first group.
func (b *bench) load() workload.Load {
	pairs := map[string][2]string{}
	for m := range b.groups {
		one, other := b.groups[m][1], b.groups[(m+1)%members][1]
		pairs[one] = [2]string{one + "left", other + "right"}
	}
	return workload.Load{Groups: b.all(), Pairs: pairs, Pace: pace, Hasty: 25, Lists: true}
}

// open starts a process.
func (b *bench) open() *process {
	b.t.Helper()
	p, err := b.start(b.t.Context())
	require.NoError(b.t, err)
	return p
}

// start is open for goroutines other than the test's.
func (b *bench) start(ctx context.Context) (*process, error) {
	core, logs := observer.New(zap.InfoLevel)
	p := &process{wire: &wire{steps: b.steps}, logs: logs, metrics: prometheus.NewRegistry()}
	meta, err := p.wire.open(ctx, serversOf(b.cluster), zap.New(core), p.metrics)
	if err != nil {
		p.wire.close()
		return nil, err
	}
	p.meta = meta
	p.end = sync.OnceFunc(func() {
		_ = meta.Close()
		p.wire.close()
	})
	b.t.Cleanup(p.end)
	return p, nil
}

// grace is how long the process waits at present for a stamp that is missing.
func (p *process) grace() time.Duration {
	return time.Duration(p.metric("metaetcd_grace_seconds") * float64(time.Second))
}

// metric is the present value of a gauge or a counter without labels.
func (p *process) metric(name string) float64 {
	families, _ := p.metrics.Gather()
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return 0
}

// ring is where the cluster's keys are.
func (b *bench) ring() *ring.Ring {
	b.t.Helper()
	var names []string
	for _, m := range b.cluster.Members {
		names = append(names, m.Name())
	}
	r, err := ring.New(names, topology.DefaultSlots, ring.Policy{Segments: sharding.Segments, Separator: '/'})
	require.NoError(b.t, err)
	return r
}

// join makes a process part of the run, without load.
func (b *bench) join(p *process, name string) {
	p.Client = b.run.Join(name, p.meta)
	b.processes = append(b.processes, p)
}

// finish ends the load and checks everything.
func (b *bench) finish() *workload.History {
	b.t.Helper()
	h := b.run.Finish()
	h.Check(b.t)
	landed, never := unknown(h, "")
	b.t.Logf("%d events, %d reads; of %d writes of unknown outcome %d took effect", len(h.Events()), len(h.Reads), landed+never, landed)
	return h
}

// unknown counts the puts of unknown outcome, of one client or all, that took effect, and those that did not.
func unknown(h *workload.History, client string) (landed, never int) {
	values := map[string]bool{}
	for _, ev := range h.Events() {
		values[string(ev.Kv.Value)] = true
	}
	for _, w := range h.Writes {
		switch {
		case w.Rev > 0 || w.Effects[0].Delete || client != "" && w.Client != client:
		case values[w.Effects[0].Value]:
			landed++
		default:
			never++
		}
	}
	return landed, never
}

// settled counts the member transactions whose outcome was read off the members' logs.
func (b *bench) settled() int {
	n := 0
	for _, p := range b.processes {
		n += p.logs.FilterMessageSnippet("settling a member transaction").Len()
	}
	return n
}
