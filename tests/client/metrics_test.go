package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// value is a metric of a registry, by its name and some of its labels ("key=value"): the sum over all series that have
// these, 0 if there is none yet. Of a histogram it is the number of observations, or, with the suffix "_sum" on the name, their sum.
func value(t *testing.T, reg prometheus.Gatherer, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	total := 0.0
	for _, f := range families {
		sum := f.GetName()+"_sum" == name
		if f.GetName() != name && !sum {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			matches := true
			for _, l := range labels {
				matches = matches && have[l]
			}
			switch h := m.GetHistogram(); {
			case !matches:
			case h != nil && sum:
				total += h.GetSampleSum()
			case h != nil:
				total += float64(h.GetSampleCount())
			default:
				total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// measured is a client with a registry of its own.
func measured(t *testing.T, cfg metaetcd.Config) (*metaetcd.Client, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg.Metrics = reg
	return open(t, cfg), reg
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	const n = 30
	cluster := newCluster(t, 3)
	cli, reg := measured(t, cluster.Config())
	other := cluster.Client(t)
	is := func(want float64, name string, labels ...string) {
		t.Helper()
		require.Equal(t, want, value(t, reg, name, labels...), "%s %v", name, labels)
	}
	is(0, "metaetcd_request_duration_seconds", "method=Put")
	is(1, "metaetcd_closed_revision")
	is(1, "metaetcd_epoch")
	is(0.02, "metaetcd_grace_seconds")

	w := cli.Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	takeResponse(t, w)
	is(1, "metaetcd_watchers")
	for i := range n {
		put(t, cli, fmt.Sprint("k", i), "v")
	}
	take(t, w, n)
	is(n, "metaetcd_watch_events_total")
	is(n, "metaetcd_request_duration_seconds", "method=Put", "code=OK")
	is(n, "metaetcd_stamps_per_add_sum")
	is(n, "metaetcd_operations_per_batch_sum")
	is(n, "metaetcd_operations_per_batch")
	is(n+1, "metaetcd_closed_revision")
	is(n+1, "metaetcd_highest_stamp")
	is(0, "metaetcd_lagging_watchers")
	is(0, "metaetcd_pending_stamps")
	is(0, "metaetcd_conflicts_total")
	require.Positive(t, value(t, reg, "metaetcd_log_bytes"))
	for _, m := range cluster.Members {
		require.Positive(t, value(t, reg, "metaetcd_operations_per_batch", "member="+m.Name()))
		require.Positive(t, value(t, reg, "metaetcd_member_requests_total", "member="+m.Name(), "method=txn", "code=OK"))
		require.GreaterOrEqual(t, value(t, reg, "metaetcd_member_behind_stamps", "member="+m.Name()), 0.0)
	}

	// What another process does shows in the state and not in the requests.
	rev := put(t, other, "k0", "theirs")
	take(t, w, 1)
	is(float64(rev), "metaetcd_closed_revision")
	is(n, "metaetcd_request_duration_seconds", "method=Put")
	is(n+1, "metaetcd_watch_events_total")

	// Requests by method and code.
	for range 3 {
		_, err := cli.Get(t.Context(), "k0")
		require.NoError(t, err)
	}
	is(3, "metaetcd_request_duration_seconds", "method=Range", "code=OK")
	_, err := cli.Get(t.Context(), "k0", clientv3.WithRev(1000))
	require.ErrorIs(t, err, rpctypes.ErrFutureRev)
	is(1, "metaetcd_request_duration_seconds", "method=Range", "code=OutOfRange")
	_, err = cli.Put(t.Context(), "\x00", "v")
	require.ErrorIs(t, err, metaetcd.ErrReservedKey)
	is(1, "metaetcd_request_duration_seconds", "method=Put", "code=InvalidArgument")
	cluster.Coordinator.Cut()
	_, err = cli.Get(within(t, 50*time.Millisecond), "", clientv3.WithPrefix())
	cluster.Coordinator.Heal()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	is(1, "metaetcd_request_duration_seconds", "method=Range", "code=DeadlineExceeded")
	_, err = cli.Txn(t.Context()).Then(clientv3.OpPut("k0", "v")).Commit()
	require.NoError(t, err)
	is(1, "metaetcd_request_duration_seconds", "method=Txn")
	_, err = cli.Delete(t.Context(), "k0")
	require.NoError(t, err)
	is(1, "metaetcd_request_duration_seconds", "method=DeleteRange")
	_, err = cli.Compact(t.Context(), rev)
	require.NoError(t, err)
	is(1, "metaetcd_request_duration_seconds", "method=Compact")
	take(t, w, 2)

	// Two processes after one key: some stamps are refused and taken again.
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	for _, c := range []*metaetcd.Client{cli, other} {
		wg.Go(func() {
			for value(t, reg, "metaetcd_conflicts_total", "reason=pin") == 0 {
				if _, err := c.Put(t.Context(), "contended", "v"); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, failed)

	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.True(t, strings.HasPrefix(f.GetName(), "metaetcd_"))
		require.NotEmpty(t, f.GetHelp())
	}

	// Watchers that end are not counted any more, nor is anything of a client that was closed.
	require.NoError(t, cli.Close())
	families, err = reg.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}

func TestMetricsOfWatchers(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1)
	cli, reg := measured(t, cluster.Config())
	ctx, cancel := context.WithCancel(t.Context())
	for range 5 {
		takeResponse(t, cli.Watch(ctx, "k", clientv3.WithCreatedNotify()))
	}
	require.EqualValues(t, 5, value(t, reg, "metaetcd_watchers"))
	cancel()
	require.Eventually(t, func() bool { return value(t, reg, "metaetcd_watchers") == 0 }, patience, tick)
}

// TestMetricsOfFailures: a lost clock is rebuilt, a gap is fenced, and both are counted.
func TestMetricsOfFailures(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli, reg := measured(t, cluster.Config())
	before := put(t, cli, "k", "v")
	require.Zero(t, value(t, reg, "metaetcd_clock_rebuilds_total"))
	cluster.Coordinator.Stop()
	cluster.Coordinator.Wipe()
	cluster.Coordinator.Start()
	require.Greater(t, put(t, cli, "k", "w"), before)
	require.EqualValues(t, 1, value(t, reg, "metaetcd_clock_rebuilds_total"))
	require.EqualValues(t, 2, value(t, reg, "metaetcd_epoch"))

	// A stamp that somebody took and lost: here the clock's own key is counted up, as by a process that died then.
	loseStamp(t, cluster.Coordinator.DirectClient(t))
	require.Equal(t, []string{"k=w"}, list(t, cli))
	require.Positive(t, value(t, reg, "metaetcd_fences_raised_total"))
}

// loseStamp takes one stamp from the clock and does nothing with it.
func loseStamp(t *testing.T, coordinator *clientv3.Client) {
	t.Helper()
	resp, err := coordinator.Get(within(t, patience), "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	for _, kv := range resp.Kvs {
		if strings.HasSuffix(string(kv.Key), "w_00") {
			_, err := coordinator.Put(within(t, patience), string(kv.Key), "", clientv3.WithIgnoreValue())
			require.NoError(t, err)
			return
		}
	}
	require.FailNow(t, "the clock has no lowest digit", "%v", resp.Kvs)
}

// TestOneRegistryForTwoClients: the second New says what is wrong, and takes nothing from the first.
func TestOneRegistryForTwoClients(t *testing.T) {
	cluster := newCluster(t, 1)
	cfg := cluster.Config()
	first, reg := measured(t, cfg)
	var before int
	require.Eventually(t, func() bool { // what New has started goes on for a while
		was := before
		before = len(libraryGoroutines())
		return before == was
	}, patience, time.Second)
	cfg.Metrics = reg
	_, err := metaetcd.New(t.Context(), cfg)
	require.ErrorContains(t, err, "metaetcd: cannot register metrics")
	require.ErrorAs(t, err, new(prometheus.AlreadyRegisteredError))
	require.Eventually(t, func() bool { return len(libraryGoroutines()) <= before }, patience, tick)

	put(t, first, "k", "v")
	require.EqualValues(t, 1, value(t, reg, "metaetcd_request_duration_seconds", "method=Put"))
	// After Close the place is free again; and labels that tell clients apart make room for several.
	require.NoError(t, first.Close())
	again := open(t, cfg)
	put(t, again, "k", "v")
	require.EqualValues(t, 1, value(t, reg, "metaetcd_request_duration_seconds", "method=Put"))
	shared := prometheus.NewRegistry()
	for _, name := range []string{"a", "b"} {
		cfg.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"client": name}, shared)
		put(t, open(t, cfg), "k", "v")
		require.EqualValues(t, 1, value(t, shared, "metaetcd_request_duration_seconds", "method=Put", "client="+name))
	}
}

// TestKeysOfLeasesAreCounted: while keys are detached from a lease, it is revoked. Those that were deleted are counted, and no others.
func TestKeysOfLeasesAreCounted(t *testing.T) {
	t.Parallel()
	const keys, writers = 400, 8
	cluster := newCluster(t, 2)
	cli, reg := measured(t, cluster.Config())
	id := grant(t, cli, 3600)
	var attaching, detaching sync.WaitGroup
	for i := range writers {
		attaching.Go(func() {
			for j := i; j < keys; j += writers {
				putLeased(t, cli, fmt.Sprintf("k%03d", j), id)
			}
		})
	}
	attaching.Wait()
	begun := make(chan struct{}, keys)
	for i := range writers {
		detaching.Go(func() {
			for j := i; j < keys; j += writers {
				put(t, cli, fmt.Sprintf("k%03d", j), "free")
				begun <- struct{}{}
			}
		})
	}
	<-begun
	_, err := cli.Revoke(within(t, patience), id)
	require.NoError(t, err)
	detaching.Wait()
	deletes, last, seen := 0, put(t, cli, "l", ""), int64(0)
	for w := cli.Watch(within(t, patience), "k", clientv3.WithRange("m"), clientv3.WithRev(2)); seen < last; {
		for _, ev := range takeResponse(t, w).Events {
			if seen = ev.Kv.ModRevision; ev.Type == clientv3.EventTypeDelete {
				deletes++
			}
		}
	}
	require.EqualValues(t, deletes, value(t, reg, "metaetcd_lease_keys_deleted_total"))
	require.EqualValues(t, 1, value(t, reg, "metaetcd_leases_reaped_total"))
}
