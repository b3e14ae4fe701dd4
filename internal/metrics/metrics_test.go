package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/metrics"
)

func state() prometheus.Collector { return prometheus.NewGauge(prometheus.GaugeOpts{Name: "state"}) }

// counts are what a registry shows of counters and histograms (how often they were observed) that are not 0, by name and labels.
func counts(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := fmt.Sprintf("%s{%s}", strings.TrimPrefix(family.GetName(), metrics.Namespace+"_"), strings.Join(labels, ","))
			if n := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); n > 0 {
				out[name] = n
			}
		}
	}
	return out
}

func TestWhatIsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := metrics.New(reg, state())
	require.NoError(t, err)
	m.Names = []string{"ash", "birch"}

	m.Request("Put", time.Now(), nil)
	m.Request("Put", time.Now(), rpctypes.ErrGRPCNoSpace)
	m.Request("Range", time.Now(), errors.New("no status"))
	m.MemberRequest(1, "txn", nil)
	m.MemberRequest(1, "txn", nil)
	m.MemberRequest(0, "range", rpctypes.ErrGRPCCompacted)
	m.Batch(0, 3)
	m.Refusal(0, true)
	m.Refusal(1, false)
	hooks := m.ClockHooks()
	hooks.Added(5, time.Second)
	hooks.Rebuilt(1, 0)
	hooks.Rebuilt(2, 0)
	m.Fences.Inc()
	require.Equal(t, map[string]float64{
		"request_duration_seconds{code=OK,method=Put}":                   1,
		"request_duration_seconds{code=ResourceExhausted,method=Put}":    1,
		"request_duration_seconds{code=Unknown,method=Range}":            1,
		"member_requests_total{code=OK,member=birch,method=txn}":         2,
		"member_requests_total{code=OutOfRange,member=ash,method=range}": 1,
		"operations_per_batch{member=ash}":                               1,
		"conflicts_total{member=ash,reason=fenced}":                      1,
		"conflicts_total{member=birch,reason=pin}":                       1,
		"stamps_per_add{}":       1,
		"clock_rebuilds_total{}": 1, // the first epoch is the creation
		"fences_raised_total{}":  1,
	}, counts(t, reg))
}

// All collectors are registered or none, and all are taken back, so that the next client of the process can register.
func TestAllAreRegisteredOrNone(t *testing.T) {
	reg := prometheus.NewRegistry()
	clash := prometheus.NewCounter(prometheus.CounterOpts{Namespace: metrics.Namespace, Name: "fenced_reads_total", Help: "another one of this name"})
	require.NoError(t, reg.Register(clash))
	_, err := metrics.New(reg, state())
	require.ErrorContains(t, err, "metaetcd: cannot register metrics")
	require.True(t, reg.Unregister(clash))
	left, err := reg.Gather()
	require.NoError(t, err)
	require.Empty(t, left)

	reg = prometheus.NewRegistry()
	for range 2 {
		m, err := metrics.New(reg, state())
		require.NoError(t, err)
		all, err := reg.Gather()
		require.NoError(t, err)
		require.NotEmpty(t, all)
		m.Unregister()
		m.Unregister()
	}
	left, err = reg.Gather()
	require.NoError(t, err)
	require.Empty(t, left)
}

// Nobody has to ask whether there is a registry.
func TestWithoutARegistry(t *testing.T) {
	m, err := metrics.New(nil, nil)
	require.NoError(t, err)
	m.Names = []string{"ash"}
	m.Request("Put", time.Now(), context.Canceled)
	m.MemberRequest(0, "txn", nil)
	m.Crossings.Inc()
	m.Unregister()
}
