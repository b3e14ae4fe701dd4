package metaetcd

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/metrics"
)

// stateCollector reads, at each scrape, what the client's parts know anyway.
type stateCollector struct {
	e atomic.Pointer[engine.Engine] // nil while it is being opened

	closed, highest, lag, watchers, lagging, events, logBytes, waiting, pending, grace, epoch, killed, leases *prometheus.Desc
}

func newStateCollector() *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, "", name), help, labels, nil)
	}
	return &stateCollector{
		closed:   desc("closed_revision", "Revision up to which this process knows everything."),
		highest:  desc("highest_stamp", "Highest stamp that any member has shown."),
		lag:      desc("member_behind_stamps", "How far the highest stamp of a member's stream is behind that of all.", "member"),
		watchers: desc("watchers", "Watchers."),
		lagging:  desc("lagging_watchers", "Watchers that catch up."),
		events:   desc("watch_events_total", "Events sent to watchers."),
		logBytes: desc("log_bytes", "Memory of recent events."),
		waiting:  desc("waiting_bytes", "Memory of events above the closed revision. Beyond its bound they are let go, the lowest revisions first."),
		pending:  desc("pending_stamps", "Stamps above the closed revision that were seen, and wait for earlier ones."),
		grace:    desc("grace_seconds", "How long a missing stamp is waited for before it is fenced off."),
		epoch:    desc("epoch", "Incarnation of the coordinator."),
		leases:   desc("leases", "Leases that the first member has a record of."),
		killed:   desc("fenced_marks_total", "Stamps, of any process, that were seen to be refused by a fence raised for a missing stamp."),
	}
}

// Describe implements prometheus.Collector.
func (s *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.closed, s.highest, s.lag, s.watchers, s.lagging, s.events, s.logBytes, s.waiting, s.pending, s.grace, s.epoch, s.killed, s.leases} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *stateCollector) Collect(ch chan<- prometheus.Metric) {
	e := s.e.Load()
	if e == nil {
		return
	}
	f := e.Feeds.Now()
	if f == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	highest := f.Log.Highest()
	gauge(s.closed, float64(f.Log.Closed()))
	gauge(s.highest, float64(highest))
	for _, m := range e.Members {
		gauge(s.lag, float64(highest-f.Log.Position(m.Index).Clock), m.Name)
	}
	watchers, lagging, events := f.Watchers()
	gauge(s.watchers, float64(watchers))
	gauge(s.lagging, float64(lagging))
	ch <- prometheus.MustNewConstMetric(s.events, prometheus.CounterValue, float64(events))
	stats := f.Log.Stats()
	gauge(s.logBytes, float64(stats.Bytes))
	gauge(s.waiting, float64(stats.Waiting))
	gauge(s.pending, float64(stats.Pending))
	gauge(s.grace, f.Fencer.Grace().Seconds())
	gauge(s.epoch, float64(e.Clock.Epoch()))
	gauge(s.leases, float64(e.Leases.Book().Count()))
	ch <- prometheus.MustNewConstMetric(s.killed, prometheus.CounterValue, float64(f.Log.FencedMarks()))
}
