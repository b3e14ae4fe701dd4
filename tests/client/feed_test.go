package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestCompactionOvertakes: a process is cut off from a member, while another one writes there and compacts that away. Its
// watchers get ErrCompacted, as if one etcd had compacted under them, but for one that lacks nothing; it itself goes on.
func TestCompactionOvertakes(t *testing.T) {
	t.Parallel()
	for member := range 2 { // the first one keeps the compacted revision
		t.Run(fmt.Sprint("member ", member), func(t *testing.T) { compactionOvertakes(t, member) })
	}
}

func compactionOvertakes(t *testing.T, member int) {
	cluster := newCluster(t, 2)
	slow, fast := cluster.Client(t), open(t, cluster.DirectConfig())
	lost := cluster.Members[member]
	key, other := keyOn(t, cluster, member, "k"), keyOn(t, cluster, 1-member, "k")
	cli := installed(t, cluster, slow)
	put(t, slow, key, "before")
	begin := put(t, slow, other, "before") + 1
	watch := func(rev int64, opts ...clientv3.OpOption) clientv3.WatchChan {
		return cli.Watch(t.Context(), "", append(opts, clientv3.WithPrefix(), clientv3.WithRev(rev))...)
	}
	watches := []clientv3.WatchChan{
		watch(begin), watch(begin, clientv3.WithPrevKV(), clientv3.WithProgressNotify()), slow.Watch(t.Context(), other, clientv3.WithRev(begin)),
	}
	future := watch(begin + 100)
	_, err := slow.Compact(within(t, patience), begin-1)
	require.NoError(t, err)
	put(t, slow, key, "seen")
	put(t, slow, other, "seen")
	take(t, watches[0], 2)
	take(t, watches[1], 2)
	take(t, watches[2], 1)

	lost.Refuse()
	var compacted int64
	for i := range 20 {
		put(t, fast, key, fmt.Sprint("unseen", i))
		compacted = put(t, fast, other, fmt.Sprint("unseen", i))
	}
	_, err = fast.Compact(within(t, patience), compacted)
	require.NoError(t, err)
	put(t, fast, key, "after")
	now := put(t, fast, other, "after")

	// Requests that wait for the member are answered when it is back, whatever happens to the log meanwhile.
	answers := make(chan error)
	waiting := waitingRequests(slow, other, compacted, now)
	for what, do := range waiting {
		go func() {
			if err := do(within(t, patience)); err != nil {
				answers <- fmt.Errorf("%s: %w", what, err)
				return
			}
			answers <- nil
		}()
	}
	time.Sleep(100 * time.Millisecond)
	lost.Heal()
	for range waiting {
		require.NoError(t, <-answers)
	}

	for i, w := range watches {
		var end clientv3.WatchResponse
		for ended := false; !ended; { // what the healthy member had in between may or may not come first
			end = takeResponse(t, w)
			ended = end.Err() != nil
		}
		require.True(t, end.Canceled)
		require.ErrorIs(t, end.Err(), rpctypes.ErrCompacted, "watch %d", i)
		require.Equal(t, compacted, end.CompactRevision)
		requireEnded(t, w)
	}

	// List and watch from there, as everybody does who got ErrCompacted, on the same handles.
	resp, err := cli.Get(within(t, patience), "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.GreaterOrEqual(t, resp.Header.Revision, now)
	for _, kv := range resp.Kvs {
		require.Equal(t, "after", string(kv.Value))
	}
	again, fromCompacted := watch(resp.Header.Revision+1), watch(compacted)
	tooOld := takeResponse(t, watch(compacted-1))
	require.ErrorIs(t, tooOld.Err(), rpctypes.ErrCompacted)
	require.Equal(t, compacted, tooOld.CompactRevision)
	put(t, slow, key, "new")
	put(t, fast, other, "new")
	for _, ev := range take(t, again, 2) {
		require.Equal(t, "new", string(ev.Kv.Value))
	}
	take(t, fromCompacted, 6)
	last := put(t, slow, key, "later")
	for last < begin+100 {
		last = put(t, slow, key, "later")
	}
	require.Equal(t, last, take(t, future, 1)[0].Kv.ModRevision)
	require.NoError(t, slow.Health(within(t, patience)))
}

// waitingRequests need every member. Each fails if it is answered wrongly. One writes the healthy member's key again.
func waitingRequests(cli *metaetcd.Client, healthy string, compacted, now int64) map[string]func(context.Context) error {
	after := func(kvs []*mvccpb.KeyValue) error {
		if len(kvs) != 2 || string(kvs[0].Value) != "after" || string(kvs[1].Value) != "after" {
			return fmt.Errorf("read %v", kvs)
		}
		return nil
	}
	return map[string]func(context.Context) error{
		"range": func(ctx context.Context) error {
			resp, err := cli.Get(ctx, "", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			return after(resp.Kvs)
		},
		"stream": func(ctx context.Context) error {
			stream, err := cli.GetStream(ctx, "", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			resp, err := clientv3.GetStreamToGetResponse(stream)
			if err != nil {
				return err
			}
			return after(resp.Kvs)
		},
		"transaction": func(ctx context.Context) error {
			resp, err := cli.Txn(ctx).Then(clientv3.OpGet("k", clientv3.WithPrefix())).Commit()
			if err != nil {
				return err
			}
			return after(resp.Responses[0].GetResponseRange().Kvs)
		},
		"transaction that landed": func(ctx context.Context) error {
			resp, err := cli.Txn(ctx).Then(clientv3.OpPut(healthy, "after"), clientv3.OpGet("k", clientv3.WithPrefix())).Commit()
			if err != nil {
				return err
			}
			return after(resp.Responses[1].GetResponseRange().Kvs)
		},
		"revision": func(ctx context.Context) error {
			rev, err := cli.Revision(ctx)
			if err == nil && rev < now {
				err = fmt.Errorf("revision %d, below %d", rev, now)
			}
			return err
		},
		"compact": func(ctx context.Context) error {
			if _, err := cli.Compact(ctx, compacted); !errors.Is(err, rpctypes.ErrCompacted) {
				return fmt.Errorf("compacting again what is compacted: %w", err)
			}
			return nil
		},
	}
}

// TestBrokenStreams: members' streams break off all the time, and watchers notice nothing but a delay.
func TestBrokenStreams(t *testing.T) {
	t.Parallel()
	const n = 60
	cluster := newCluster(t, 2)
	watcher, writer := cluster.Client(t), open(t, cluster.DirectConfig())
	w := watcher.Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	var want []string
	for i := range n {
		node := cluster.Members[i%2]
		switch i % 12 {
		case 3, 8:
			node.Refuse()
		case 5, 10:
			cluster.Members[0].Heal()
			cluster.Members[1].Heal()
		}
		rev := put(t, writer, fmt.Sprint("k", i%5), fmt.Sprint(i))
		want = append(want, fmt.Sprintf("%d k%d=%d", rev, i%5, i))
	}
	cluster.Members[0].Heal()
	cluster.Members[1].Heal()
	evs := take(t, w, n)
	require.Equal(t, want, describe(evs))
	for i, ev := range evs[5:] {
		require.Equal(t, fmt.Sprint(i), string(ev.PrevKv.Value))
	}
	require.Len(t, list(t, watcher), 5)
}

// TestMemberWithoutLeader: a member of three servers loses two of them. Its streams end with ErrNoLeader, and resume when
// it has a leader again.
func TestMemberWithoutLeader(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 1, metaetcdtest.WithServers(3), metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) {
		cfg.TickMs, cfg.ElectionMs = 20, 200
	}))
	cli := cluster.Client(t)
	w := cli.Watch(t.Context(), "k", clientv3.WithPrefix())
	put(t, cli, "k", "1")
	take(t, w, 1)

	member := cluster.Members[0]
	var leader int
	require.Eventually(t, func() bool { leader = member.Leader(); return leader >= 0 }, patience, tick)
	for i := range 2 {
		member.StopServer((leader + i) % 3)
	}
	written := make(chan error, 1)
	go func() {
		_, err := cli.Put(within(t, patience), "k", "2")
		written <- err
	}()
	quiet(t, w, 800*time.Millisecond)
	select {
	case err := <-written:
		require.FailNow(t, "a write without a leader", "%v", err)
	default:
	}
	member.StartServer(leader)
	require.NoError(t, <-written)
	evs := take(t, w, 1)
	require.Equal(t, "2", string(evs[0].Kv.Value))
	put(t, cli, "k", "3")
	require.Equal(t, "3", string(take(t, w, 1)[0].Kv.Value))
	require.Equal(t, []string{"k=3"}, list(t, cli))
}
