package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	roleIdle   = "idle"
	watchedKey = "/processes/watched"
	readKey    = "/processes/read"
)

// idleConfig says what a nearly idle process connects to, and the file that it leaves what it has seen in.
type idleConfig struct {
	rig.Target
	Result string
}

// seen is what a process has seen from the first event of the watched key on.
type seen struct {
	Events, Gets []time.Duration
	Received     float64 // bytes per second
	counts
}

// counts are a client's metrics.
type counts struct{ Raises, Fenced, FencedReads float64 }

func (c counts) minus(o counts) counts {
	return counts{c.Raises - o.Raises, c.Fenced - o.Fenced, c.FencedReads - o.FencedReads}
}

// idle is a nearly idle process.
type idle struct {
	side     *rig.Side
	reg      *prometheus.Registry
	received atomic.Int64

	mu       sync.Mutex
	began    time.Time // zero: no event was seen
	before   counts
	bytes    int64
	seen     seen
	problems []error
}

// idleRole reads and watches until its parent has seen enough.
func idleRole(ctx context.Context, config []byte) (string, func() error, error) {
	var cfg idleConfig
	if err := json.Unmarshal(config, &cfg); err != nil {
		return "", nil, err
	}
	p := &idle{reg: prometheus.NewRegistry()}
	cfg.Metrics, cfg.Received = p.reg, &p.received
	var err error
	if p.side, err = cfg.Open(ctx); err != nil {
		return "", nil, err
	}
	var wg sync.WaitGroup
	events := p.side.Watch(ctx, watchedKey)
	wg.Go(func() { p.watch(events) })
	wg.Go(func() { p.read(ctx) })
	return "ready", func() error {
		wg.Wait()
		err := p.result(cfg.Result)
		return errors.Join(err, p.side.Close())
	}, nil
}

func (p *idle) watch(events clientv3.WatchChan) {
	for resp := range events {
		now := time.Now()
		p.mu.Lock()
		for _, ev := range resp.Events {
			if p.began.IsZero() {
				p.began, p.bytes = now, p.received.Load()
				p.before, _ = countsOf(p.reg)
				continue
			}
			p.seen.Events = append(p.seen.Events, now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(ev.Kv.Value)))))
		}
		p.mu.Unlock()
	}
}

// read gets a key once a second.
func (p *idle) read(ctx context.Context) {
	for wait := rand.N(time.Second); ; wait = time.Second {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		_, err := p.side.Get(ctx, readKey)
		p.mu.Lock()
		switch {
		case ctx.Err() != nil || p.began.IsZero():
		case err != nil:
			p.problems = append(p.problems, err)
		default:
			p.seen.Gets = append(p.seen.Gets, time.Since(begun))
		}
		p.mu.Unlock()
	}
}

func (p *idle) result(file string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.problems) > 0 {
		return p.problems[0]
	}
	if p.began.IsZero() {
		return errors.New("no event has come")
	}
	now, err := countsOf(p.reg)
	if err != nil {
		return err
	}
	p.seen.counts = now.minus(p.before)
	p.seen.Received = float64(p.received.Load()-p.bytes) / time.Since(p.began).Seconds()
	b, err := json.Marshal(p.seen)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// countsOf sums up a client's metrics; a plain etcd's client has none.
func countsOf(reg *prometheus.Registry) (c counts, err error) {
	families, err := reg.Gather()
	for _, f := range families {
		sum := 0.0
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue()
		}
		switch f.GetName() {
		case "metaetcd_fences_raised_total":
			c.Raises = sum
		case "metaetcd_fenced_marks_total":
			c.Fenced = sum
		case "metaetcd_fenced_reads_total":
			c.FencedReads = sum
		}
	}
	return c, err
}

func addAll(h *load.Hist, ds []time.Duration) {
	for _, d := range ds {
		h.Add(d)
	}
}
