package rig

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/metaetcd/metaetcd"
)

// Address is where one etcd serves.
type Address struct{ Name, Endpoint string }

// Target is what a benchmark talks to: one plain etcd, or a meta cluster.
type Target struct {
	Members     []Address
	Coordinator string // its endpoint; empty: the only member is a plain etcd
	MaxTxnOps   uint   // of the members; 0: etcd's default
	Sharding    metaetcd.Sharding

	Metrics  prometheus.Registerer `json:"-"` // of the meta cluster's client; nil: none
	Received *atomic.Int64         `json:"-"` // counts the bytes of messages that come from the servers; nil: nobody does
}

// Side is an opened target.
type Side struct {
	clientv3.KV
	clientv3.Watcher
	clientv3.Lease
	Meta  *metaetcd.Client // nil: a plain etcd
	Peers []string         // names of the members that the compared meta cluster has; of a plain etcd, too

	Others []*Side // the same target, opened again, as by other processes; each is closed by itself

	close []func() error
}

// Open connects to the target.
func (t Target) Open(ctx context.Context) (_ *Side, err error) {
	s := &Side{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if t.Coordinator == "" {
		cli, err := s.dial(ctx, t, t.Members[0].Endpoint)
		if err != nil {
			return nil, err
		}
		s.KV, s.Watcher, s.Lease = cli.KV, cli.Watcher, cli.Lease
		return s, nil
	}
	cfg := metaetcd.Config{MemberTxnOps: int(t.MaxTxnOps), Sharding: t.Sharding, Metrics: t.Metrics}
	if cfg.Coordinator, err = s.dial(ctx, t, t.Coordinator); err != nil {
		return nil, err
	}
	for _, m := range t.Members {
		cli, err := s.dial(ctx, t, m.Endpoint)
		if err != nil {
			return nil, err
		}
		cfg.Members = append(cfg.Members, metaetcd.Member{Name: m.Name, Client: cli})
	}
	meta, err := metaetcd.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, meta.Close)
	s.KV, s.Watcher, s.Lease, s.Meta = meta, meta, meta, meta
	return s, nil
}

func (s *Side) dial(ctx context.Context, t Target, endpoint string) (*clientv3.Client, error) {
	var opts []grpc.DialOption
	if t.Received != nil {
		opts = append(opts, grpc.WithStatsHandler(receipts{t.Received}))
	}
	cli, err := Dial(ctx, endpoint, opts...)
	if err == nil {
		s.close = append(s.close, cli.Close)
	}
	return cli, err
}

// Dial opens a client of one etcd with the client's default settings and waits until it is connected.
func Dial(ctx context.Context, endpoint string, opts ...grpc.DialOption) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialOptions: opts})
	if err != nil {
		return nil, err
	}
	if _, err := cli.Status(ctx, endpoint); err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return cli, nil
}

// receipts counts what is received.
type receipts struct{ bytes *atomic.Int64 }

// TagRPC implements stats.Handler.
func (receipts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (receipts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (receipts) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC implements stats.Handler.
func (r receipts) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		r.bytes.Add(int64(in.WireLength))
	}
}

// Close closes the clients, the meta cluster's before those it borrowed.
func (s *Side) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.close) {
		errs = append(errs, c())
	}
	s.close = nil
	return errors.Join(errs...)
}
