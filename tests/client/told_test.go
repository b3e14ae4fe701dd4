package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// teller notes every revision that one client is told, and fails when it is told less than before: whatever is asked after an answer
// was there is answered at that revision or above.
type teller struct {
	cli   *metaetcd.Client
	told  atomic.Int64
	lease clientv3.LeaseID
}

func newTeller(t *testing.T, cluster *metaetcdtest.Cluster) *teller {
	t.Helper()
	told := &teller{cli: cluster.Client(t)}
	lease, err := told.cli.Grant(within(t, patience), 3600)
	require.NoError(t, err)
	told.lease = lease.ID
	return told
}

// errLess is what a client finds that was told less than before.
var errLess = errors.New("told less than before")

// ask makes a request. It fails with errLess, or the request's error: what fails tells nothing.
func (t *teller) ask(what string, request func() (int64, error)) error {
	before := t.told.Load()
	rev, err := request()
	if err == nil && rev < before {
		err = fmt.Errorf("%w: %d after %d", errLess, rev, before)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for old := before; old < rev && !t.told.CompareAndSwap(old, rev); old = t.told.Load() {
	}
	return nil
}

// toldKey is a key that one worker alone writes and reads.
type toldKey struct {
	name string
	rev  int64 // the highest of its revisions that the worker was told, by the answer to a write or by a read
}

// look judges what a read has shown of the key. It may be of a write whose answer was lost; but then nothing older is shown any more.
func (k *toldKey) look(kvs []*mvccpb.KeyValue, header int64) (int64, error) {
	var mod int64
	if len(kvs) > 0 {
		mod = kvs[0].ModRevision
	}
	if mod < k.rev {
		return 0, fmt.Errorf("%w: %s is at %d after %d", errLess, k.name, mod, k.rev)
	}
	k.rev = mod
	return header, nil
}

// requests are what a client can ask, by name.
func (t *teller) requests(ctx context.Context, k *toldKey) map[string]func() (int64, error) {
	read := func(opts ...clientv3.OpOption) func() (int64, error) {
		return func() (int64, error) {
			resp, err := t.cli.Get(ctx, k.name, opts...)
			if err != nil {
				return 0, err
			}
			return k.look(resp.Kvs, resp.Header.Revision)
		}
	}
	return map[string]func() (int64, error){
		"put": func() (int64, error) {
			resp, err := t.cli.Put(ctx, k.name, "v")
			if err != nil {
				return 0, err
			}
			k.rev = resp.Header.Revision
			return k.rev, nil
		},
		"get":                          read(),
		"serializable get":             read(clientv3.WithSerializable()),
		"serializable list":            read(clientv3.WithSerializable(), clientv3.WithRange(k.name+"\x00")),
		"transaction without branches": func() (int64, error) { return txnRev(t.cli.Txn(ctx).Commit()) },
		"serializable transaction": func() (int64, error) {
			resp, err := t.cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(k.name), ">", 0)).
				Then(clientv3.OpGet(k.name, clientv3.WithSerializable())).Commit()
			if err != nil {
				return 0, err
			}
			var kvs []*mvccpb.KeyValue
			if resp.Succeeded {
				kvs = resp.Responses[0].GetResponseRange().Kvs
			}
			return k.look(kvs, resp.Header.Revision)
		},
		"failed compare": func() (int64, error) {
			return txnRev(t.cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(k.name), "=", -1)).Then(clientv3.OpPut(k.name, "never")).Commit())
		},
		"time to live": func() (int64, error) {
			resp, err := t.cli.TimeToLive(ctx, t.lease)
			if err != nil {
				return 0, err
			}
			return resp.Revision, nil
		},
		"leases": func() (int64, error) {
			resp, err := t.cli.Leases(ctx)
			if err != nil {
				return 0, err
			}
			return resp.Revision, nil
		},
		"keep-alive": func() (int64, error) {
			resp, err := t.cli.KeepAliveOnce(ctx, t.lease)
			if err != nil {
				return 0, err
			}
			return resp.Revision, nil
		},
		"watch": func() (int64, error) { return t.watch(ctx, k) },
	}
}

func txnRev(resp *clientv3.TxnResponse, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// watch creates a watch.
func (t *teller) watch(ctx context.Context, k *toldKey) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	created := <-t.cli.Watch(ctx, k.name, clientv3.WithCreatedNotify())
	if err := created.Err(); err != nil {
		return 0, err
	}
	if !created.Created {
		return 0, fmt.Errorf("%+v comes first", created)
	}
	return created.Header.Revision, nil
}

// TestNobodyIsToldLess: under load, while another process writes and compacts, and while the log is being reopened.
func TestNobodyIsToldLess(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	told := newTeller(t, cluster)
	fast := open(t, cluster.DirectConfig())

	ctx, stop := context.WithCancel(within(t, patience))
	defer stop()
	var asked atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for worker := range 6 {
		k := &toldKey{name: fmt.Sprint("key", worker)}
		g.Go(func() error {
			for gctx.Err() == nil {
				for what, request := range told.requests(ctx, k) {
					switch err := told.ask(what, request); {
					case errors.Is(err, errLess):
						return err
					case err == nil:
						asked.Add(1)
					}
				}
			}
			return nil
		})
	}
	var closed sync.WaitGroup
	closed.Go(func() {
		for last := int64(0); gctx.Err() == nil; time.Sleep(time.Millisecond) {
			now := told.cli.ClosedRevision()
			if now < last {
				t.Errorf("the closed revision went from %d to %d", last, now)
			}
			last = now
		}
	})
	for round := 0; round < 3 && gctx.Err() == nil; round++ {
		reopen(t, cluster.Members[round%2].Refuse, cluster.Members[round%2].Heal, fast, keyOn(t, cluster, round%2, "other"))
		for enough := asked.Load() + 200; asked.Load() < enough && gctx.Err() == nil; time.Sleep(tick) {
		}
	}
	stop()
	closed.Wait()
	require.NoError(t, g.Wait())
}

// reopen cuts a process off from a member, and compacts what it has not seen there.
func reopen(t *testing.T, cut, heal func(), fast *metaetcd.Client, key string) {
	t.Helper()
	cut()
	var rev int64
	for i := range 10 {
		rev = put(t, fast, key, fmt.Sprint(i))
	}
	_, err := fast.Compact(within(t, patience), rev)
	require.NoError(t, err)
	put(t, fast, key, "after")
	heal()
}

// TestReadsBesideAMemberThatHangs: what holds up the closed revision holds up no serializable read of other members, and these show
// what their client was told of.
func TestReadsBesideAMemberThatHangs(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	told := newTeller(t, cluster)
	other := open(t, cluster.DirectConfig())
	well, dead := keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 2, "k")
	base := put(t, told.cli, dead, "before")

	cluster.Members[2].Cut()
	ctx := within(t, patience)
	var hanging errgroup.Group
	hanging.Go(func() error { _, err := told.cli.Put(ctx, dead, "during"); return err })
	missing := base + 1 // it has its stamp as soon as the others' revisions leave one out
	for put(t, other, well, "meanwhile") == missing {
		missing++
	}
	k := &toldKey{name: well}
	requests := told.requests(ctx, k)
	for range 3 {
		for _, what := range []string{
			"put", "serializable get", "transaction without branches", "serializable transaction", "time to live", "leases", "keep-alive", "watch",
			"get", "serializable get", "serializable transaction",
		} {
			require.NoError(t, told.ask(what, requests[what]))
		}
		require.Less(t, told.cli.ClosedRevision(), missing)
		at, err := told.cli.Get(ctx, well, clientv3.WithSerializable(), clientv3.WithRev(k.rev))
		require.NoError(t, err)
		require.Equal(t, k.rev, at.Kvs[0].ModRevision)
	}
	_, err := told.cli.Get(within(t, 500*time.Millisecond), "", clientv3.WithPrefix(), clientv3.WithSerializable())
	require.ErrorIs(t, err, context.DeadlineExceeded, "the member that hangs may hold what is missing")
	cluster.Members[2].Heal()
	require.NoError(t, hanging.Wait())
	require.ElementsMatch(t, []string{well + "=v", dead + "=during"}, list(t, told.cli, clientv3.WithSerializable()))
}
