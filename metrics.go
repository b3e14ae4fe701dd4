package metaetcd

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
)

// metrics are the client's collectors, in the caller's registry.
type metrics struct {
	reg        prometheus.Registerer
	registered []prometheus.Collector
	names      func(member int) string

	requests    *prometheus.HistogramVec // method, code
	memberReqs  *prometheus.CounterVec   // member, method, code
	stamps      prometheus.Histogram     // per add
	ops         *prometheus.HistogramVec // per batch, by member
	refusals    *prometheus.CounterVec   // member, reason
	fences      prometheus.Counter
	fencedReads prometheus.Counter
	rebuilds    prometheus.Counter
	reaps       prometheus.Counter
	reapedKeys  prometheus.Counter

	crossings    prometheus.Counter
	lockWaits    prometheus.Counter
	rollForwards prometheus.Counter
	aborts       prometheus.Counter
}

const namespace = "metaetcd"

func newMetrics(reg prometheus.Registerer, c *core) (*metrics, error) {
	m := &metrics{reg: reg, names: func(i int) string { return c.members[i].name }}
	m.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "request_duration_seconds", Help: "Requests of users, by method and gRPC code.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
	}, []string{"method", "code"})
	m.memberReqs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "member_requests_total", Help: "Requests to members, by member, method and gRPC code.",
	}, []string{"member", "method", "code"})
	m.stamps = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: "stamps_per_add", Help: "Stamps taken by one add on the clock.", Buckets: prometheus.ExponentialBuckets(1, 2, 13),
	})
	m.ops = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "operations_per_batch", Help: "Writes that travelled together, by member.", Buckets: prometheus.ExponentialBuckets(1, 2, 8),
	}, []string{"member"})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "conflicts_total", Help: "Stamps of this process that were refused and taken again: by a fence, or by another writer of the same keys.",
	}, []string{"member", "reason"})
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	m.fences = counter("fences_raised_total", "Fences that this process raised to resolve missing stamps.")
	m.fencedReads = counter("fenced_reads_total", "Reads of single keys that were served by their member alone because the closed revision was held up.")
	m.rebuilds = counter("clock_rebuilds_total", "Times that this process rebuilt the clock.")
	m.crossings = counter("cross_member_transactions_total", "Transactions that this process decided under locks: across members, too long for one request, or contended.")
	m.lockWaits = counter("lock_waits_total", "Times that such a transaction met the locks of another and waited.")
	m.rollForwards = counter("roll_forwards_total", "Decided transactions whose writer had gone and that this process finished.")
	m.aborts = counter("lock_aborts_total", "Times that this process took a member's locks from an undecided transaction whose writer had gone.")
	m.reaps = counter("leases_reaped_total", "Leases that had expired or been revoked, and that this process brought to their end.")
	m.reapedKeys = counter("lease_keys_deleted_total", "Keys that this process deleted because their lease had expired or been revoked.")
	all := []prometheus.Collector{
		m.requests, m.memberReqs, m.stamps, m.ops, m.refusals, m.fences, m.fencedReads, m.rebuilds, m.crossings, m.lockWaits, m.rollForwards, m.aborts, m.reaps, m.reapedKeys, newStateCollector(c),
	}
	if reg == nil {
		return m, nil
	}
	for _, col := range all {
		if err := reg.Register(col); err != nil {
			m.unregister()
			return nil, errors.Join(errors.New("metaetcd: cannot register metrics"), err)
		}
		m.registered = append(m.registered, col)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, col := range m.registered {
		m.reg.Unregister(col)
	}
	m.registered = nil
}

// request notes a user's request that began at start.
func (m *metrics) request(method string, start time.Time, err error) {
	m.requests.WithLabelValues(method, code(err)).Observe(time.Since(start).Seconds())
}

func (m *metrics) memberRequest(member int, method string, err error) {
	m.memberReqs.WithLabelValues(m.names(member), method, code(err)).Inc()
}

// code is status.Code's name; that of a success takes no look at the error.
func code(err error) string {
	if err == nil {
		return "OK"
	}
	return status.Code(err).String()
}

func (m *metrics) batch(member, ops int) {
	m.ops.WithLabelValues(m.names(member)).Observe(float64(ops))
}

func (m *metrics) refusal(member int, fenced bool) {
	reason := "pin"
	if fenced {
		reason = "fenced"
	}
	m.refusals.WithLabelValues(m.names(member), reason).Inc()
}

func (m *metrics) clockHooks() clock.Hooks {
	return clock.Hooks{
		Added: func(stamps int64, _ time.Duration) { m.stamps.Observe(float64(stamps)) },
		Rebuilt: func(epoch, _ int64) {
			if epoch > 1 { // the first is the creation
				m.rebuilds.Inc()
			}
		},
	}
}

// stateCollector reads, at each scrape, what the client's parts know anyway.
type stateCollector struct {
	c *core

	closed, highest, lag, watchers, lagging, events, logBytes, pending, grace, epoch, killed, leases *prometheus.Desc
}

func newStateCollector(c *core) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	return &stateCollector{
		c:        c,
		closed:   desc("closed_revision", "Revision up to which this process knows everything."),
		highest:  desc("highest_stamp", "Highest stamp that any member has shown."),
		lag:      desc("member_behind_stamps", "How far the highest stamp of a member's stream is behind that of all.", "member"),
		watchers: desc("watchers", "Watchers."),
		lagging:  desc("lagging_watchers", "Watchers that catch up."),
		events:   desc("watch_events_total", "Events sent to watchers."),
		logBytes: desc("log_bytes", "Memory of recent events."),
		pending:  desc("pending_stamps", "Stamps above the closed revision that were seen, and wait in memory for earlier ones."),
		grace:    desc("grace_seconds", "How long a missing stamp is waited for before it is fenced off."),
		epoch:    desc("epoch", "Incarnation of the coordinator."),
		leases:   desc("leases", "Leases that the first member has a record of."),
		killed:   desc("fenced_marks_total", "Stamps, of any process, that were seen to be refused by a fence raised for a missing stamp."),
	}
}

// Describe implements prometheus.Collector.
func (s *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.closed, s.highest, s.lag, s.watchers, s.lagging, s.events, s.logBytes, s.pending, s.grace, s.epoch, s.killed, s.leases} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *stateCollector) Collect(ch chan<- prometheus.Metric) {
	f := s.c.present()
	if f == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	highest := f.log.Highest()
	gauge(s.closed, float64(f.log.Closed()))
	gauge(s.highest, float64(highest))
	for _, m := range s.c.members {
		gauge(s.lag, float64(highest-f.log.Position(m.index).Clock), m.name)
	}
	watchers, lagging, events := f.hub.Stats()
	gauge(s.watchers, float64(watchers))
	gauge(s.lagging, float64(lagging))
	ch <- prometheus.MustNewConstMetric(s.events, prometheus.CounterValue, float64(events))
	stats := f.log.Stats()
	gauge(s.logBytes, float64(stats.Bytes))
	gauge(s.pending, float64(stats.Pending))
	gauge(s.grace, f.gaps.Grace().Seconds())
	gauge(s.epoch, float64(s.c.clock.Epoch()))
	gauge(s.leases, float64(s.c.leases.Book().Count()))
	ch <- prometheus.MustNewConstMetric(s.killed, prometheus.CounterValue, float64(f.log.FencedMarks()))
}
