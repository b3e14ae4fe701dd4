package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/record"
)

// TestRequestsWaitForTheNextLog: between the moment at which compaction overtakes a log and that at which another one serves, nobody
// is told. Here the log itself finds that it lacks a previous value, and its feed has not ended yet.
func TestRequestsWaitForTheNextLog(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	first := 0
	if cluster.Members[1].Name() < cluster.Members[0].Name() {
		first = 1 // it has the record of what is compacted
	}
	native, other := cluster.Members[first].DirectClient(t), cluster.Client(t)
	var member tap
	cfg := cluster.DirectConfig()
	for i := range cfg.Members {
		if cfg.Members[i].Name == cluster.Members[first].Name() {
			cfg.Members[i].Client = member.dial(t, cluster.Members[first])
		}
	}
	p := struct {
		*metaetcd.Client
		keys [2]string
	}{open(t, cfg), [2]string{keyOn(t, cluster, first, "k"), keyOn(t, cluster, 1-first, "k")}}
	for _, key := range p.keys {
		put(t, other, key, "before")
		_, err := p.Get(within(t, patience), key) // its streams have shown it
		require.NoError(t, err)
	}
	resume := member.stopWatches()
	put(t, other, p.keys[0], "after")
	resp, err := native.Get(within(t, patience), p.keys[0])
	require.NoError(t, err)
	_, err = native.Compact(within(t, patience), resp.Kvs[0].ModRevision)
	require.NoError(t, err)
	ending := make(chan struct{})
	end := make(chan struct{})
	var once sync.Once
	member.on(func(ctx context.Context, req *pb.TxnRequest, send func() error) error {
		if len(req.Success) == 3 && string(req.Success[2].GetRequestRange().GetKey()) == record.KeyCompacted {
			once.Do(func() { close(ending) })
			return after(ctx, end, send)
		}
		return send()
	})
	resume()
	<-ending // the log has failed, and its feed is about to end
	calls := []func() error{
		func() error { _, err := p.Get(t.Context(), p.keys[0]); return err },
		func() error { _, err := p.Get(t.Context(), p.keys[1]); return err },
		func() error { _, err := p.Get(t.Context(), p.keys[1], clientv3.WithSerializable()); return err },
		func() error { _, err := p.Get(t.Context(), "k", clientv3.WithPrefix()); return err },
		func() error { _, err := p.Put(t.Context(), p.keys[1], "x", clientv3.WithPrevKV()); return err },
		func() error { _, err := p.Txn(t.Context()).Then(clientv3.OpGet(p.keys[0])).Commit(); return err },
		func() error {
			_, err := p.Txn(t.Context()).Then(clientv3.OpPut(p.keys[0], "y"), clientv3.OpPut(p.keys[1], "y")).Commit()
			return err
		},
		func() error { _, err := p.Revision(t.Context()); return err },
		func() error { _, err := p.Grant(t.Context(), 60); return err },
	}
	done := make(chan error, len(calls))
	for _, call := range calls {
		go func() { done <- call() }()
	}
	left := len(calls)
	for window := time.After(300 * time.Millisecond); ; { // most come to the log that has failed
		select {
		case err := <-done:
			require.NoError(t, err)
			left--
			continue
		case <-window:
		}
		break
	}
	close(end)
	for range left {
		require.NoError(t, <-done)
	}
}

// TestStoppedClientSendsNothing: a client that stops for good tells why, also those whose writes waited, and these do not land.
func TestStoppedClientSendsNothing(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	var coordinator tap
	cfg := cluster.DirectConfig()
	cfg.Coordinator = coordinator.dial(t, cluster.Coordinator)
	cli := open(t, cfg)
	var keys [2]string
	for i := range keys {
		keys[i] = keyOn(t, cluster, i, "k")
	}
	adds, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	coordinator.on(func(ctx context.Context, req *pb.TxnRequest, send func() error) error {
		if len(req.Success) > 0 && req.Success[0].GetRequestPut() != nil {
			once.Do(func() { close(held) })
			return after(ctx, adds, send)
		}
		return send()
	})
	waits := make(chan error, 3)
	go func() { _, err := cli.Put(t.Context(), keys[0], "v"); waits <- err }()
	go func() { _, err := cli.Put(t.Context(), keys[1], "v"); waits <- err }()
	go func() {
		_, err := cli.Txn(t.Context()).Then(clientv3.OpPut(keys[0]+"/x", "v"), clientv3.OpPut(keys[1]+"/x", "v"), clientv3.OpPut(keys[0], "v"), clientv3.OpPut(keys[1], "v")).Commit()
		waits <- err
	}()
	<-held
	members := [2]*clientv3.Client{cluster.Members[0].DirectClient(t), cluster.Members[1].DirectClient(t)}
	_, err := members[0].Put(within(t, patience), "foreign", "v")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := cli.Get(within(t, patience), keys[1], clientv3.WithSerializable())
		return err != nil
	}, patience, tick)
	close(adds)
	for range cap(waits) {
		require.ErrorContains(t, <-waits, "client stopped")
	}
	for i, m := range members {
		resp, err := m.Get(within(t, patience), keys[i], clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.Zero(t, resp.Count)
	}
}

// TestNewBesideCompaction: compaction overtakes the log that New opens. It opens another one.
func TestNewBesideCompaction(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	other := cluster.Client(t)
	key := keyOn(t, cluster, 0, "k")
	put(t, other, key, "v")
	var p tap
	cfg := cluster.DirectConfig()
	for i := range cfg.Members {
		if cfg.Members[i].Name == cluster.Members[0].Name() {
			cfg.Members[i].Client = p.dial(t, cluster.Members[0])
		}
	}
	resume := p.stopWatches()
	var once sync.Once
	p.on(func(_ context.Context, req *pb.TxnRequest, send func() error) error {
		if len(req.Success) == 1 && string(req.Success[0].GetRequestPut().GetKey()) == record.KeyFence {
			once.Do(func() {
				var rev int64
				for range 5 {
					resp, err := other.Put(t.Context(), key, "v")
					if err != nil {
						t.Error(err)
						return
					}
					rev = resp.Header.Revision
				}
				if _, err := other.Compact(t.Context(), rev); err != nil {
					t.Error(err)
				}
				resume()
			})
		}
		return send()
	})
	cli, err := metaetcd.New(within(t, patience), cfg)
	require.NoError(t, err)
	require.Equal(t, []string{key + "=v"}, list(t, cli))
	require.NoError(t, cli.Close())
}
