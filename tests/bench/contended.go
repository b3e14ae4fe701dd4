package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/tests/internal/load"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// increment adds one to any of n counters, which lie on one member of a meta cluster, as processes do that share a counter: get,
// compare and swap, and once more if somebody else was faster. Only what succeeds counts.
func increment(n int) func(context.Context, *rig.Side, int) (load.Op, error) {
	return func(_ context.Context, s *rig.Side, _ int) (load.Op, error) {
		counters, err := onOneMember(s.Peers, n)
		return func(ctx context.Context, _ int) error {
			k := counters[rand.IntN(n)]
			for {
				swapped, err := incrementOnce(ctx, s, k)
				if swapped || err != nil {
					return err
				}
			}
		}, err
	}
}

func incrementOnce(ctx context.Context, s *rig.Side, k string) (bool, error) {
	resp, err := s.Get(ctx, k)
	if err != nil {
		return false, err
	}
	count, rev := 0, int64(0)
	if len(resp.Kvs) == 1 {
		rev = resp.Kvs[0].ModRevision
		if count, err = strconv.Atoi(string(resp.Kvs[0].Value)); err != nil {
			return false, err
		}
	}
	swap, err := s.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(k), "=", rev)).Then(clientv3.OpPut(k, strconv.Itoa(count+1))).Commit()
	return err == nil && swap.Succeeded, err
}

// onOneMember names n keys that lie on the first member.
func onOneMember(members []string, n int) ([]string, error) {
	r, err := ring.New(members, topology.DefaultSlots, ring.Policy{Separator: '/'})
	if err != nil {
		return nil, err
	}
	var keys []string
	for i := 0; len(keys) < n; i++ {
		if k := fmt.Sprintf("/bench/counters/%d", i); r.MemberOf([]byte(k)) == 0 {
			keys = append(keys, k)
		}
	}
	return keys, nil
}
