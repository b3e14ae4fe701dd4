package faults

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// openTimeout bounds the opening of a process while others put the servers under load, on a machine that may be busy with more.
const openTimeout = 3 * time.Minute

// wire is between one process and all of its servers. Every request of the process passes it.
type wire struct {
	onDeath func()          // called by the request that the process dies of
	steps   chan<- struct{} // gets a token for each step of rebuilding the clock, if there is room; may be nil

	died     moment       // see die
	armed    atomic.Int32 // the moment to die at
	survives atomic.Int32 // how many requests come to that moment before
	dead     atomic.Bool

	doom atomic.Pointer[doom] // what becomes of the process's transactions across members; may be nil

	// countdown, once set, goes down by one before each request is sent, and by one before its answer arrives. At 0 the
	// process dies, or, with a pause, that request waits for it.
	countdown atomic.Int32
	pause     func()

	blocked atomic.Int32                                 // the phase whose requests are not sent
	around  atomic.Pointer[func(p phase) (after func())] // what happens before and after a request

	lose atomic.Int32 // how many of 1,000 answers get lost
	lost atomic.Int64

	clients []*clientv3.Client
}

// intercept is a grpc.UnaryClientInterceptor below clientv3's own retries.
func (w *wire) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if w.dead.Load() || w.ticks() {
		return hang(ctx)
	}
	phase := phaseOf(req)
	if phase != other && w.blocked.Load() == int32(phase) || w.diesAt(momentsOf[phase].before) || w.doom.Load().sticks(req, nil) {
		return hang(ctx)
	}
	if around := w.around.Load(); around != nil {
		defer (*around)(phase)()
	}
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return err
	}
	if w.dead.Load() || w.ticks() || w.diesAt(momentsOf[phase].after) || w.doom.Load().sticks(req, reply) {
		return hang(ctx)
	}
	w.doom.Load().delay(ctx, req)
	if phase == rebuild {
		select {
		case w.steps <- struct{}{}:
		default:
		}
	}
	if rand.Int32N(1000) < w.lose.Load() {
		w.lost.Add(1)
		return status.Error(lossCodes[rand.IntN(len(lossCodes))], "the answer was lost")
	}
	return nil
}

// lossCodes are what a client is told of an answer that was lost: by its connection, by a hop that gave up, by a timeout of its own.
var lossCodes = []codes.Code{codes.Unavailable, codes.Canceled, codes.DeadlineExceeded}

// ticks counts down, and kills the process when its time has come.
func (w *wire) ticks() bool {
	if w.countdown.Load() == 0 || w.countdown.Add(-1) != 0 {
		return false
	}
	if w.pause != nil {
		w.pause()
		return false
	}
	w.dead.Store(true)
	w.onDeath()
	return true
}

// diesAt kills the process if this is the moment. From then on nothing leaves it and nothing reaches it.
func (w *wire) diesAt(m moment) bool {
	if m == never || moment(w.armed.Load()) != m || w.survives.Add(-1) >= 0 || !w.armed.CompareAndSwap(int32(m), int32(never)) {
		return false
	}
	w.dead.Store(true)
	w.onDeath()
	return true
}

// hang is what a request does whose process is dead.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// servers is where a meta cluster is found.
type servers struct {
	Coordinator []string
	Members     map[string][]string
}

func serversOf(c *metaetcdtest.Cluster) servers {
	s := servers{Coordinator: c.Coordinator.Endpoints(), Members: map[string][]string{}}
	for _, m := range c.Members {
		s.Members[m.Name()] = m.Endpoints()
	}
	return s
}

// open opens a meta cluster as a process all of whose requests pass the wire.
func (w *wire) open(ctx context.Context, s servers, lg *zap.Logger, metrics prometheus.Registerer) (*metaetcd.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	cfg := metaetcd.Config{Sharding: sharding, Logger: lg, Metrics: metrics}
	var err error
	if cfg.Coordinator, err = w.dial(s.Coordinator); err != nil {
		return nil, err
	}
	for name, endpoints := range s.Members {
		cli, err := w.dial(endpoints)
		if err != nil {
			return nil, err
		}
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: name, Client: cli})
	}
	return metaetcd.New(ctx, cfg)
}

// dial opens a client of one server. It reconnects quickly.
func (w *wire) dial(endpoints []string) (*clientv3.Client, error) {
	retry := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints,
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 5 * time.Second}),
			grpc.WithChainUnaryInterceptor(w.intercept),
		},
	})
	if err == nil {
		w.clients = append(w.clients, cli)
	}
	return cli, err
}

// close closes the clients.
func (w *wire) close() {
	for _, cli := range w.clients {
		_ = cli.Close()
	}
}
