package faults

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/record"
)

// lockUp writes a record of a member as a transaction does that locks it, and returns what gives the lock back.
func (b *bench) lockUp(member int, key string, h record.Holder) (free func()) {
	b.t.Helper()
	cli := b.cluster.Members[member].DirectClient(b.t)
	resp, err := cli.Put(b.t.Context(), key, string(h.Value()), clientv3.WithPrevKV())
	require.NoError(b.t, err)
	return func() {
		_, err := cli.Put(b.t.Context(), key, string(resp.PrevKv.Value))
		require.NoError(b.t, err)
	}
}

// TestPutMeetsLocksAgainAndAgain: whenever it arrives, somebody has locked the member. Then it locks its slot itself.
func TestPutMeetsLocksAgainAndAgain(t *testing.T) {
	b := newBench(t, 1)
	p := b.processes[0]
	cli := b.cluster.Members[0].DirectClient(t)
	h := record.Holder{ID: record.NewTxnID(), Primary: 1, Patience: time.Minute}
	var met atomic.Int32
	around := func(p phase) func() {
		if p != flight {
			return func() {}
		}
		met.Add(1)
		_, _ = cli.Put(t.Context(), record.KeyLock, string(h.Value()))
		return func() { _, _ = cli.Put(t.Context(), record.KeyLock, "") }
	}
	p.wire.around.Store(&around)
	_, err := p.meta.Put(patient(t), b.groups[0][0]+"k0", "v")
	require.NoError(t, err)
	require.Positive(t, met.Load())
}

// TestRangeDeleteMeetsLocksAgainAndAgain: there is no moment at which no slot of the member is locked. Then it claims the member.
func TestRangeDeleteMeetsLocksAgainAndAgain(t *testing.T) {
	b := newBench(t, 1)
	p := b.processes[0]
	_, err := p.meta.Put(patient(t), b.groups[0][0]+"k0", "v")
	require.NoError(t, err)
	claimed := b.cluster.Members[0].DirectClient(t).Watch(t.Context(), record.KeyLock)
	h := record.Holder{ID: record.NewTxnID(), Primary: 1, Patience: time.Minute}
	free := b.lockUp(0, string(record.SlotKey(b.ring().Slot([]byte(b.groups[0][1])))), h)
	last, err := p.meta.Put(patient(t), b.groups[0][0]+"k1", "v")
	require.NoError(t, err)
	_, err = p.meta.Get(patient(t), b.groups[0][0], clientv3.WithPrefix())
	require.NoError(t, err) // so it has seen the lock
	var deleted *clientv3.DeleteResponse
	var deleting errgroup.Group
	ctx := patient(t)
	deleting.Go(func() (err error) {
		deleted, err = p.meta.Delete(ctx, b.groups[0][0], clientv3.WithPrefix())
		return err
	})
	<-claimed
	free()
	require.NoError(t, deleting.Wait())
	require.EqualValues(t, 2, deleted.Deleted)
	require.Equal(t, last.Header.Revision+1, deleted.Header.Revision, "it was refused before")
}
