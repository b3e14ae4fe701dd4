package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	valueSize = 256
	// keyCount keys exist before puts overwrite and gets read them.
	keyCount = 20_000
	listSize = 1_000
	// keysPerWorker are the keys that a worker updates in turn, by compare-and-swap.
	keysPerWorker = 8
	// loaders write the keys that a benchmark starts from.
	loaders = 64
)

// value does not compress, as little does that is worth storing.
var value = func() string {
	b := make([]byte, valueSize)
	for i := range b {
		b[i] = byte(rand.UintN(256))
	}
	return string(b)
}()

func key(i int) string { return fmt.Sprintf("/bench/keys/%06d", i) }

func randomKey() string { return key(rand.IntN(keyCount)) }

func loadKeys(ctx context.Context, s *rig.Side) error {
	return load.Each(ctx, loaders, keyCount, func(ctx context.Context, i int) error {
		_, err := s.Put(ctx, key(i), value)
		return err
	})
}

// put overwrites one of the existing keys.
func put(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
	return func(ctx context.Context, _ int) error {
		_, err := s.Put(ctx, randomKey(), value)
		return err
	}, nil
}

// putNew writes keys that never existed.
func putNew(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
	var next atomic.Int64
	return func(ctx context.Context, _ int) error {
		_, err := s.Put(ctx, fmt.Sprintf("/bench/new/%010d", next.Add(1)), value)
		return err
	}, nil
}

// create writes keys on the condition that they do not exist.
func create(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
	var next atomic.Int64
	return func(ctx context.Context, _ int) error {
		k := fmt.Sprintf("/bench/created/%010d", next.Add(1))
		return swap(ctx, s, k, 0, nil)
	}, nil
}

// update swaps each worker's keys from revision to revision, as Kubernetes does.
func update(ctx context.Context, s *rig.Side, workers int) (load.Op, error) {
	type state struct {
		revs [keysPerWorker]int64
		turn int
	}
	states := make([]state, workers)
	name := func(worker, i int) string { return fmt.Sprintf("/bench/cas/%04d/%d", worker, i) }
	err := load.Each(ctx, loaders, workers, func(ctx context.Context, w int) error {
		for i := range keysPerWorker {
			resp, err := s.Put(ctx, name(w, i), value)
			if err != nil {
				return err
			}
			states[w].revs[i] = resp.Header.Revision
		}
		return nil
	})
	return func(ctx context.Context, worker int) error {
		st := &states[worker]
		st.turn = (st.turn + 1) % keysPerWorker
		return swap(ctx, s, name(worker, st.turn), st.revs[st.turn], &st.revs[st.turn])
	}, err
}

// swap writes k if its revision is rev, which must be so, and stores the new one unless newRev is nil.
func swap(ctx context.Context, s *rig.Side, k string, rev int64, newRev *int64) error {
	txn := s.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(k), "=", rev)).Then(clientv3.OpPut(k, value))
	if rev > 0 {
		txn = txn.Else(clientv3.OpGet(k))
	}
	resp, err := txn.Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return fmt.Errorf("%s is not at revision %d, though nobody else writes it: %v", k, rev, resp.Responses)
	}
	if newRev != nil {
		*newRev = resp.Header.Revision
	}
	return nil
}

// get reads one of the existing keys.
func get(opts ...clientv3.OpOption) func(context.Context, *rig.Side, int) (load.Op, error) {
	return func(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
		return func(ctx context.Context, _ int) error {
			resp, err := s.Get(ctx, randomKey(), opts...)
			if err == nil && len(resp.Kvs) != 1 {
				err = errors.New("a key is missing")
			}
			return err
		}, nil
	}
}

// list reads listSize keys under one prefix.
func list(ctx context.Context, s *rig.Side, _ int) (load.Op, error) {
	const prefix = "/bench/list/"
	err := load.Each(ctx, loaders, listSize, func(ctx context.Context, i int) error {
		_, err := s.Put(ctx, fmt.Sprintf("%s%s-%04d", prefix, strings.Repeat("x", 20), i), value)
		return err
	})
	return func(ctx context.Context, _ int) error {
		resp, err := s.Get(ctx, prefix, clientv3.WithPrefix())
		if err == nil && len(resp.Kvs) != listSize {
			err = fmt.Errorf("a list has %d keys, not %d", len(resp.Kvs), listSize)
		}
		return err
	}, err
}
