package rig

import (
	"context"
	"errors"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

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
}

// Side is an opened target.
type Side struct {
	clientv3.KV
	clientv3.Watcher
	clientv3.Lease
	Meta  *metaetcd.Client // nil: a plain etcd
	Peers []string         // names of the members that the compared meta cluster has; of a plain etcd, too
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
		cli, err := s.dial(ctx, t.Members[0].Endpoint)
		if err != nil {
			return nil, err
		}
		s.KV, s.Watcher, s.Lease = cli.KV, cli.Watcher, cli.Lease
		return s, nil
	}
	cfg := metaetcd.Config{MemberTxnOps: int(t.MaxTxnOps), Sharding: t.Sharding}
	if cfg.Coordinator, err = s.dial(ctx, t.Coordinator); err != nil {
		return nil, err
	}
	for _, m := range t.Members {
		cli, err := s.dial(ctx, m.Endpoint)
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

func (s *Side) dial(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	cli, err := Dial(ctx, endpoint)
	if err == nil {
		s.close = append(s.close, cli.Close)
	}
	return cli, err
}

// Dial opens a client of one etcd with the client's default settings and waits until it is connected.
func Dial(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if _, err := cli.Status(ctx, endpoint); err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return cli, nil
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
