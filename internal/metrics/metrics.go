package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
)

// Set are the collectors of one process. It is safe for concurrent use, but for Unregister and for setting Names.
type Set struct {
	// Names are the members' names, in the order of their indexes: what MemberRequest, Batch and Refusal label their counts with. The
	// engine sets them once, when it has read the topology. Before that, these three panic.
	Names []string

	// Counters that the rooms raise by themselves. What each counts is in its help; see New.
	Fences, FencedReads, Reaps, ReapedKeys     prometheus.Counter
	Crossings, LockWaits, RollForwards, Aborts prometheus.Counter

	reg        prometheus.Registerer
	registered []prometheus.Collector

	requests   *prometheus.HistogramVec // method, code
	memberReqs *prometheus.CounterVec   // member, method, code
	stamps     prometheus.Histogram     // per add
	ops        *prometheus.HistogramVec // per batch, by member
	refusals   *prometheus.CounterVec   // member, reason
	rebuilds   prometheus.Counter
}

// Namespace begins the name of every metric.
const Namespace = "metaetcd"

// New makes the collectors, and registers them and state, the one of the process's gauges, with reg; nil: they are registered nowhere.
// When one cannot be registered, none is.
func New(reg prometheus.Registerer, state prometheus.Collector) (*Set, error) {
	m := &Set{reg: reg}
	m.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: Namespace, Name: "request_duration_seconds", Help: "Requests of users, by method and gRPC code.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
	}, []string{"method", "code"})
	m.memberReqs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: Namespace, Name: "member_requests_total", Help: "Requests to members, by member, method and gRPC code.",
	}, []string{"member", "method", "code"})
	m.stamps = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: Namespace, Name: "stamps_per_add", Help: "Stamps taken by one add on the clock.", Buckets: prometheus.ExponentialBuckets(1, 2, 13),
	})
	m.ops = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: Namespace, Name: "operations_per_batch", Help: "Writes that travelled together, by member.", Buckets: prometheus.ExponentialBuckets(1, 2, 8),
	}, []string{"member"})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: Namespace, Name: "conflicts_total", Help: "Stamps of this process that were refused and taken again: by a fence, or by another writer of the same keys.",
	}, []string{"member", "reason"})
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help})
	}
	m.Fences = counter("fences_raised_total", "Fences that this process raised to resolve missing stamps.")
	m.FencedReads = counter("fenced_reads_total", "Reads of single keys that were served by their member alone because the closed revision was held up.")
	m.rebuilds = counter("clock_rebuilds_total", "Times that this process rebuilt the clock.")
	m.Crossings = counter("cross_member_transactions_total", "Transactions that this process decided under locks: across members, too long for one request, or contended.")
	m.LockWaits = counter("lock_waits_total", "Times that such a transaction met the locks of another and waited.")
	m.RollForwards = counter("roll_forwards_total", "Decided transactions whose writer had gone and that this process finished.")
	m.Aborts = counter("lock_aborts_total", "Times that this process took a member's locks from an undecided transaction whose writer had gone.")
	m.Reaps = counter("leases_reaped_total", "Leases that had expired or been revoked, and that this process brought to their end.")
	m.ReapedKeys = counter("lease_keys_deleted_total", "Keys that this process deleted because their lease had expired or been revoked.")
	all := []prometheus.Collector{
		m.requests, m.memberReqs, m.stamps, m.ops, m.refusals, m.Fences, m.FencedReads, m.rebuilds, m.Crossings, m.LockWaits, m.RollForwards, m.Aborts, m.Reaps, m.ReapedKeys, state,
	}
	if reg == nil {
		return m, nil
	}
	for _, col := range all {
		if err := reg.Register(col); err != nil {
			m.Unregister()
			return nil, errors.Join(errors.New("metaetcd: cannot register metrics"), err)
		}
		m.registered = append(m.registered, col)
	}
	return m, nil
}

// Unregister takes the collectors out of the registry again. It is idempotent.
func (m *Set) Unregister() {
	for _, col := range m.registered {
		m.reg.Unregister(col)
	}
	m.registered = nil
}

// Request notes a user's request, by etcd's name of the method, which began at start and ended now with err.
func (m *Set) Request(method string, start time.Time, err error) {
	m.requests.WithLabelValues(method, code(err)).Observe(time.Since(start).Seconds())
}

// MemberRequest notes a request to a member that ended with err.
func (m *Set) MemberRequest(member int, method string, err error) {
	m.memberReqs.WithLabelValues(m.Names[member], method, code(err)).Inc()
}

// code is status.Code's name; that of a success takes no look at the error.
func code(err error) string {
	if err == nil {
		return "OK"
	}
	return status.Code(err).String()
}

// Batch notes that so many writes travelled to a member in one request.
func (m *Set) Batch(member, ops int) {
	m.ops.WithLabelValues(m.Names[member]).Observe(float64(ops))
}

// Refusal notes that a member refused a stamp of this process, because of a fence or because of another writer, and that it is taken
// again.
func (m *Set) Refusal(member int, fenced bool) {
	reason := "pin"
	if fenced {
		reason = "fenced"
	}
	m.refusals.WithLabelValues(m.Names[member], reason).Inc()
}

// ClockHooks counts what the clock does.
func (m *Set) ClockHooks() clock.Hooks {
	return clock.Hooks{
		Added: func(stamps int64, _ time.Duration) { m.stamps.Observe(float64(stamps)) },
		Rebuilt: func(epoch, _ int64) {
			if epoch > 1 { // the first is the creation
				m.rebuilds.Inc()
			}
		},
	}
}
