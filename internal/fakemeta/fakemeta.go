// Package fakemeta is a meta cluster of etcds in memory, for the tests of the rooms that need a whole process: a coordinator and
// members from internal/etcdfake, and engines on them. In a synctest bubble everything takes the bubble's time, which costs none.
//
// Requests to a member pass its Gate, where a test can hold them, lose them or look at them.
package fakemeta

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/metrics"
	"github.com/metaetcd/metaetcd/internal/ring"
)

// Cluster is a coordinator and members. It ends with the test.
type Cluster struct {
	t           testing.TB
	Coordinator *etcdfake.Server
	Members     []*etcdfake.Server // in the order of their names
	Clock       *Gate              // of the requests to the coordinator
	Gates       []*Gate            // of the requests to the members
	MaxTxnOps   int                // of the processes that are opened next: the members' limit of operations
	cfg         engine.Config
}

// New makes a cluster. The member of a key is told by its first segment, so that a test finds keys of one member easily: see Key.
func New(t testing.TB, members int) *Cluster {
	c := &Cluster{t: t, Coordinator: etcdfake.New(100), Clock: &Gate{}, MaxTxnOps: 128}
	c.cfg = engine.Config{
		Coordinator: c.dial(c.Coordinator, c.Clock), Slots: 8 * members, Policy: ring.Policy{Segments: 1},
		Timeout: 5 * time.Second, CacheEntries: 1024, LogBytes: 1 << 20, ProgressInterval: time.Minute, Logger: zap.NewNop(),
		LeaseEnds: func() clientv3.Watcher { return silent{} },
	}
	for i := range members {
		m, g := etcdfake.New(uint64(i+1)), &Gate{}
		c.Members, c.Gates = append(c.Members, m), append(c.Gates, g)
		c.cfg.Members = append(c.cfg.Members, engine.Member{Name: name(i), Client: c.dial(m, g)})
	}
	return c
}

func name(i int) string { return fmt.Sprintf("m%d", i) }

func (c *Cluster) dial(s *etcdfake.Server, g *Gate) *clientv3.Client {
	cli, stop, err := s.Dial(g.pass)
	require.NoError(c.t, err)
	c.t.Cleanup(stop)
	return cli
}

// silent is a watcher to whom nothing is shown: those of clientv3 cannot live in a synctest bubble. No lease ends by itself.
type silent struct{ clientv3.Watcher }

func (silent) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	return make(chan clientv3.WatchResponse)
}

func (silent) Close() error { return nil }

// Open starts a process. It is closed with the test.
func (c *Cluster) Open() *engine.Engine {
	c.t.Helper()
	e, err := c.Try(context.Background(), nil)
	require.NoError(c.t, err)
	return e
}

// Try is Open where that may fail, or should end with ctx. The process's metrics are registered with reg; nil: nowhere.
func (c *Cluster) Try(ctx context.Context, reg prometheus.Registerer) (*engine.Engine, error) {
	c.t.Helper()
	cfg := c.cfg
	cfg.MaxTxnOps = c.MaxTxnOps
	var err error
	cfg.Metrics, err = metrics.New(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "state"}))
	require.NoError(c.t, err)
	e, err := engine.Open(ctx, cfg)
	if err == nil {
		c.t.Cleanup(e.Close)
	}
	return e, err
}

// World is a cluster, and a process on it.
type World struct {
	*Cluster
	*engine.Engine
}

// Run runs a test in a synctest bubble, on members and a process of their own.
func Run(t *testing.T, members int, test func(t *testing.T, w World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := New(t, members)
		test(t, World{Cluster: c, Engine: c.Open()})
	})
}

// Key is a key of a member. Keys of one member and different numbers lie in different slots, as far as it has slots.
func (c *Cluster) Key(member, n int) string {
	names := make([]string, len(c.Members))
	for i := range names {
		names[i] = name(i)
	}
	r, err := ring.New(names, c.cfg.Slots, c.cfg.Policy)
	require.NoError(c.t, err)
	seen := map[int]bool{}
	for i := 0; ; i++ {
		key := fmt.Sprintf("k%d/", i)
		slot := r.Slot([]byte(key))
		if r.MemberOf([]byte(key)) != member || seen[slot] && len(seen) < len(r.SlotsOf(member)) {
			continue
		}
		seen[slot] = true
		if n == 0 {
			return key
		}
		n--
	}
}

// Gate is what the requests to one etcd pass, all of its KV service's. The zero Gate is open. Safe for concurrent use.
type Gate struct {
	mu  sync.Mutex
	via etcdfake.Interceptor
}

// Set makes requests pass an interceptor from now on; nil opens the gate.
func (g *Gate) Set(via etcdfake.Interceptor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.via = via
}

// Freeze holds the requests that choose picks, nil all, until the function that it returns is called, or their callers have gone.
func (g *Gate) Freeze(choose func(proto.Message) bool) (thaw func()) {
	done := make(chan struct{})
	g.Set(func(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if choose == nil || choose(req) {
			select {
			case <-done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return do()
	})
	return sync.OnceFunc(func() {
		g.Set(nil)
		close(done)
	})
}

func (g *Gate) pass(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	g.mu.Lock()
	via := g.via
	g.mu.Unlock()
	if via == nil {
		return do()
	}
	return via(ctx, req, do)
}
