package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends what hangs; nothing waits for it.
const patience = 2 * time.Minute

// snapshotCount is how many entries etcd logs between snapshots. An etcd 3.7 cannot read what 3.5 logged since the last one, with
// 3.6 in between or not; it is long gone where more is written than in a test.
const snapshotCount = 5

// TestUpgrade takes a meta cluster from the oldest version of etcd to the newest, one cluster after another, under a client that
// keeps a lease, a mutex and a watch. At every step it lists, writes on every member at once, and looks back.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	binaries, err := buildServers(t.Context(), dir)
	require.NoError(t, err)
	var paths []string // a file for each cluster, which is replaced when that is upgraded
	for i := range 4 {
		paths = append(paths, filepath.Join(dir, fmt.Sprint("node-", i)))
		require.NoError(t, install(binaries[minors[0]], paths[i]))
	}
	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithEtcdBinaries(paths...), metaetcdtest.WithUnsafeNoFsync(),
		metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) { cfg.SnapshotCount = snapshotCount }))
	requireVersions(t, cluster, minors[0])
	u := newUser(t, cluster.Client(t))
	u.step(t)
	for _, minor := range minors[1:] {
		for i, node := range cluster.Nodes() {
			node.Stop()
			require.NoError(t, install(binaries[minor], paths[i]))
			node.Start()
			u.step(t)
			newUser(t, cluster.Client(t)).step(t) // who comes later
		}
		requireVersions(t, cluster, minor)
	}
}

// requireVersions waits until every cluster has agreed on the version, as it must have before the next upgrade.
func requireVersions(t *testing.T, cluster *metaetcdtest.Cluster, minor string) {
	t.Helper()
	for _, node := range cluster.Nodes() {
		var version struct{ EtcdServer, EtcdCluster string }
		require.Eventually(t, func() bool {
			require.NoError(t, getJSON(t.Context(), "http://"+node.Endpoint()+"/version", &version))
			return strings.HasPrefix(version.EtcdCluster, minor+".")
		}, patience, patience/1000)
		require.True(t, strings.HasPrefix(version.EtcdServer, minor+"."), "%s is etcd %s", node.Name(), version.EtcdServer)
	}
}

func getJSON(ctx context.Context, url string, to any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return errors.Join(json.NewDecoder(resp.Body).Decode(to), resp.Body.Close())
}

// user is one process with keys of its own.
type user struct {
	cli     *metaetcd.Client
	prefix  string
	session *concurrency.Session
	mutex   *concurrency.Mutex
	watch   clientv3.WatchChan
	keys    int   // written at every step
	steps   int   // that are done
	first   int64 // the revision of the first step, when every key had its first value
}

const userKeys = 12

func newUser(t *testing.T, cli *metaetcd.Client) *user {
	t.Helper()
	etcd := clientv3.NewCtxClient(t.Context())
	cli.Install(etcd)
	t.Cleanup(func() { _ = etcd.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := concurrency.NewSession(etcd, concurrency.WithTTL(int(patience.Seconds())))
	require.NoError(t, err)
	t.Cleanup(func() { session.Orphan() })
	u := &user{cli: cli, prefix: fmt.Sprintf("user-%x/", session.Lease()), session: session, keys: userKeys}
	u.mutex = concurrency.NewMutex(session, u.prefix+"mutex")
	require.NoError(t, u.mutex.Lock(ctx))
	u.watch = cli.Watch(t.Context(), u.prefix+"key", clientv3.WithPrefix())
	return u
}

// step does a transaction over all members, and looks at it in every way.
func (u *user) step(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	u.steps++
	value := fmt.Sprint(u.steps)
	puts := make([]clientv3.Op, u.keys)
	for i := range puts {
		puts[i] = clientv3.OpPut(fmt.Sprint(u.prefix, "key-", i), value, clientv3.WithLease(u.session.Lease()))
	}
	txn, err := u.cli.Txn(ctx).If(u.mutex.IsOwner()).Then(puts...).Commit()
	require.NoError(t, err)
	require.True(t, txn.Succeeded, "the mutex is held")
	rev := txn.Header.Revision
	for i := range u.keys { // more than a snapshot's worth for everybody
		_, err := u.cli.Put(ctx, fmt.Sprint(u.prefix, "other-", i), value)
		require.NoError(t, err)
	}
	if u.first == 0 {
		u.first = rev
	}
	u.requireList(ctx, t, rev, value)
	u.requireList(ctx, t, u.first, "1")
	u.requireEvents(ctx, t, rev, value)
	live, err := u.cli.KeepAliveOnce(ctx, u.session.Lease())
	require.NoError(t, err)
	require.Positive(t, live.TTL)
	lease, err := u.cli.TimeToLive(ctx, u.session.Lease(), clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.Len(t, lease.Keys, u.keys+1)
}

func (u *user) requireList(ctx context.Context, t *testing.T, rev int64, value string) {
	t.Helper()
	list, err := u.cli.Get(ctx, u.prefix+"key", clientv3.WithPrefix(), clientv3.WithRev(rev))
	require.NoError(t, err)
	require.Len(t, list.Kvs, u.keys)
	for _, kv := range list.Kvs {
		require.Equal(t, value, string(kv.Value))
	}
}

func (u *user) requireEvents(ctx context.Context, t *testing.T, rev int64, value string) {
	t.Helper()
	for got := 0; got < u.keys; {
		select {
		case resp, ok := <-u.watch:
			require.True(t, ok)
			require.NoError(t, resp.Err())
			for _, ev := range resp.Events {
				require.Equal(t, rev, ev.Kv.ModRevision)
				require.Equal(t, value, string(ev.Kv.Value))
				got++
			}
		case <-ctx.Done():
			require.NoError(t, ctx.Err())
		}
	}
}
