package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

const (
	members         = 3
	processes       = 3
	groupsPerMember = 2

	// far is how much later than the others the first process's requests arrive at the members: stamps that it took
	// earlier land later.
	far = 2 * time.Millisecond
	// progressInterval is short, so that watches are told of progress without asking.
	progressInterval = 50 * time.Millisecond
)

// bench is a meta cluster of several processes.
type bench struct {
	t        *testing.T
	cluster  *metaetcdtest.Cluster
	sharding metaetcd.Sharding
	ring     *ring.Ring
	run      *workload.Run

	processes []*workload.Client
}

// newBench starts servers and processes, without load. The first process is far.
func newBench(t *testing.T, sharding metaetcd.Sharding) *bench {
	t.Helper()
	b := &bench{t: t, sharding: sharding, cluster: metaetcdtest.New(t, members, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(sharding))}
	b.ring = b.newRing()
	for _, m := range b.cluster.Members {
		m.Delay(far)
	}
	first := b.open(b.cluster.Config())
	b.run = workload.Start(t, first)
	b.join(first)
	for len(b.processes) < processes {
		b.join(b.open(b.cluster.DirectConfig()))
	}
	return b
}

func (b *bench) newRing() *ring.Ring {
	b.t.Helper()
	var names []string
	for _, m := range b.cluster.Members {
		names = append(names, m.Name())
	}
	r, err := ring.New(names, b.sharding.Slots, ring.Policy{Segments: b.sharding.Segments, Separator: '/'})
	require.NoError(b.t, err)
	return r
}

func (b *bench) open(cfg metaetcd.Config) *metaetcd.Client {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), workload.Patience)
	defer cancel()
	cfg.ProgressInterval = progressInterval
	cli, err := metaetcd.New(ctx, cfg)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, cli.Close()) })
	return cli
}

// join makes a process part of the run, without load.
func (b *bench) join(cli *metaetcd.Client) {
	b.processes = append(b.processes, b.run.Join(fmt.Sprintf("p%d", len(b.processes)), cli))
}

// groups are as many groups as there are keys like them on every member.
func (b *bench) groups() []string {
	var groups []string
	found := make([]int, members)
	for i := 0; len(groups) < members*groupsPerMember; i++ {
		group := fmt.Sprintf("g%d/", i)
		if m := b.ring.MemberOf([]byte(group)); found[m] < groupsPerMember {
			found[m]++
			groups = append(groups, group)
		}
	}
	return groups
}

// load lets the processes work for a while, and until the run has come to so many revisions: a slow machine takes longer.
func (b *bench) load(d time.Duration, revisions int64) {
	b.t.Helper()
	time.Sleep(lasting(d))
	enough := func() bool { return b.run.Told()-b.run.Base() >= revisions }
	require.Eventually(b.t, enough, workload.Patience, pace, "hardly anything happens")
}

// pairs finds two keys of each group that live on different members.
func (b *bench) pairs(groups []string) map[string][2]string {
	pairs := map[string][2]string{}
	for _, g := range groups {
		left := g + "left"
		for i := 0; pairs[g][0] == ""; i++ {
			if right := fmt.Sprintf("%sright%d", g, i); b.ring.MemberOf([]byte(right)) != b.ring.MemberOf([]byte(left)) {
				pairs[g] = [2]string{left, right}
			}
		}
	}
	return pairs
}

// accounts are n keys on every member.
func (b *bench) accounts(n int) []string {
	var accounts []string
	found := make([]int, members)
	for i := 0; len(accounts) < members*n; i++ {
		account := fmt.Sprintf("account%d/balance", i)
		if m := b.ring.MemberOf([]byte(account)); found[m] < n {
			found[m]++
			accounts = append(accounts, account)
		}
	}
	return accounts
}

// late counts the writes that landed on their member after one with a higher stamp: what makes a snapshot more than one of
// the member's own revisions.
func (b *bench) late() int {
	b.t.Helper()
	late := 0
	for _, m := range b.cluster.Members {
		late += b.lateOn(m.DirectClient(b.t))
	}
	return late
}

func (b *bench) lateOn(member *clientv3.Client) int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), workload.Patience)
	defer cancel()
	now, err := member.Get(ctx, "\x01", clientv3.WithFromKey(), clientv3.WithCountOnly())
	require.NoError(b.t, err)
	last := now.Header.Revision
	// Reserved records are watched as well, so that the member's last revision shows up.
	late, highest := 0, int64(0)
	for resp := range member.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1)) {
		require.NoError(b.t, resp.Err())
		for _, ev := range resp.Events {
			if ev.Kv.ModRevision >= last {
				return late
			}
			if ev.Kv.Key[0] == record.Reserved || ev.Type != clientv3.EventTypePut {
				continue
			}
			h, _, err := record.ParseHeader(ev.Kv.Value)
			require.NoError(b.t, err)
			if h.Stamp < highest {
				late++
			}
			highest = max(highest, h.Stamp)
		}
	}
	b.t.Fatalf("a member's watch ended: %v", ctx.Err())
	return 0
}
