package faults

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// patient is a context for a request that must be answered.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), workload.Patience)
	t.Cleanup(cancel)
	return ctx
}

// TestRangeDeleteWhileAMemberIsAway: it cannot go on, and it does not hold up the members that it does not wait for.
func TestRangeDeleteWhileAMemberIsAway(t *testing.T) {
	b := newBench(t, 2)
	healthy, lost := b.groups[0][0]+"k0", b.cluster.Members[members-1]
	locked := make(chan struct{})
	var locks atomic.Int32
	changes := b.cluster.Members[0].DirectClient(t).Watch(t.Context(), record.KeyLock)
	go func() {
		for resp := range changes {
			for _, ev := range resp.Events {
				if isLocked(ev.Kv.Value) && locks.Add(1) == 1 {
					close(locked)
				}
			}
		}
	}()

	lost.Refuse()
	var deleting errgroup.Group
	ctx := patient(t)
	deleting.Go(func() error {
		_, err := b.processes[0].meta.Delete(ctx, "g", clientv3.WithPrefix())
		return err
	})
	<-locked
	for range 10 {
		for _, p := range b.processes {
			_, err := p.meta.Put(patient(t), healthy, "meanwhile")
			require.NoError(t, err)
		}
	}
	_, err := b.processes[0].meta.Txn(patient(t)).Then(clientv3.OpPut(healthy, "both"), clientv3.OpPut(b.groups[1][0]+"k0", "both")).Commit()
	require.NoError(t, err)
	time.Sleep(500 * time.Millisecond)
	require.LessOrEqual(t, locks.Load(), int32(2), "a healthy member was locked again and again")

	lost.Heal()
	require.NoError(t, deleting.Wait())
	resp, err := b.processes[1].meta.Get(patient(t), "g", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, resp.Kvs)
}

// TestPartsDoNotHoldUpTurns: a transaction of a process waits for one before it only where that has work left; and not even there
// while it could go on elsewhere.
func TestPartsDoNotHoldUpTurns(t *testing.T) {
	b := newBench(t, 1)
	p := b.processes[0]
	var keys [members]string
	for m := range keys {
		keys[m] = b.groups[m][0] + "k0"
	}
	puts := func(value string, keys ...string) error {
		var ops []clientv3.Op
		for _, k := range keys {
			ops = append(ops, clientv3.OpPut(k, value))
		}
		_, err := p.meta.Txn(patient(t)).Then(ops...).Commit()
		return err
	}
	free := b.groups[2][1] + "k0"
	p.wire.blocked.Store(int32(part))
	require.NoError(t, puts("decided", keys[0], keys[1]))
	require.NoError(t, puts("decided, too", keys[0], keys[2]), "its members are free, or will be")
	var waiting errgroup.Group
	waiting.Go(func() error { return puts("waits", keys[:]...) })
	time.Sleep(10 * pace) // most often it has its turn on keys[0] then
	require.NoError(t, puts("goes on", keys[0], free))

	p.wire.blocked.Store(int32(other))
	require.NoError(t, waiting.Wait())
	for _, k := range keys {
		resp, err := p.meta.Get(patient(t), k)
		require.NoError(t, err)
		require.Equal(t, "waits", string(resp.Kvs[0].Value))
	}
}
