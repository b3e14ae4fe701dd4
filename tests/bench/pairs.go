package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// hotKeys are so few that writers are in each other's way.
const hotKeys = 10

// A pair of keys lives on two members of a meta cluster, if it has as many; a plain etcd is given the same pairs.
type pairer struct {
	ring   *ring.Ring
	spread bool
}

func newPairer(members []string) (*pairer, error) {
	r, err := ring.New(members, topology.DefaultSlots, ring.Policy{Separator: '/'})
	return &pairer{ring: r, spread: len(members) > 1}, err
}

// apart reports whether two keys may be a pair.
func (p *pairer) apart(a, b string) bool {
	return a != b && (!p.spread || p.ring.MemberOf([]byte(a)) != p.ring.MemberOf([]byte(b)))
}

// putPairs overwrites two of the first n keys in one transaction.
func putPairs(n int) func(context.Context, *rig.Side, int) (load.Op, error) {
	return func(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
		pairs, err := newPairer(s.Peers)
		return func(ctx context.Context, _ int) error {
			a, b := key(rand.IntN(n)), key(rand.IntN(n))
			for !pairs.apart(a, b) {
				b = key(rand.IntN(n))
			}
			_, err := s.Txn(ctx).Then(clientv3.OpPut(a, value), clientv3.OpPut(b, value)).Commit()
			return err
		}, err
	}
}

// swapPairs swaps each worker's pairs of keys from revision to revision.
func swapPairs(ctx context.Context, s *rig.Side, workers int) (load.Op, error) {
	type state struct {
		pairs [keysPerWorker][2]string
		revs  [keysPerWorker]int64
		turn  int
	}
	pairs, err := newPairer(s.Peers)
	if err != nil {
		return nil, err
	}
	states := make([]state, workers)
	err = load.Each(ctx, loaders, workers, func(ctx context.Context, w int) error {
		for i := range keysPerWorker {
			a := fmt.Sprintf("/bench/pairs/%04d/%d/a", w, i)
			b := a
			for j := 0; !pairs.apart(a, b); j++ {
				b = fmt.Sprintf("/bench/pairs/%04d/%d/b%d", w, i, j)
			}
			resp, err := s.Txn(ctx).Then(clientv3.OpPut(a, value), clientv3.OpPut(b, value)).Commit()
			if err != nil {
				return err
			}
			states[w].pairs[i], states[w].revs[i] = [2]string{a, b}, resp.Header.Revision
		}
		return nil
	})
	return func(ctx context.Context, worker int) error {
		st := &states[worker]
		st.turn = (st.turn + 1) % keysPerWorker
		var compares []clientv3.Cmp
		var puts []clientv3.Op
		for _, k := range st.pairs[st.turn] {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(k), "=", st.revs[st.turn]))
			puts = append(puts, clientv3.OpPut(k, value))
		}
		resp, err := s.Txn(ctx).If(compares...).Then(puts...).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return errors.New("a pair has changed, though nobody else writes it")
		}
		st.revs[st.turn] = resp.Header.Revision
		return nil
	}, err
}
