package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// leaseBench is a meta cluster for leases. It opens processes that can die.
type leaseBench struct {
	t       *testing.T
	cluster *metaetcdtest.Cluster
}

func newLeaseBench(t *testing.T) *leaseBench {
	t.Helper()
	return &leaseBench{t, metaetcdtest.New(t, 2, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(sharding))}
}

func (b *leaseBench) open() (*metaetcd.Client, *wire) {
	b.t.Helper()
	w := &wire{onDeath: func() {}}
	b.t.Cleanup(w.close)
	cli, err := w.open(b.t.Context(), serversOf(b.cluster), nil, nil)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = cli.Close() })
	return cli, w
}

func (b *leaseBench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), workload.Patience)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *leaseBench) grant(l clientv3.Lease, ttl int64) clientv3.LeaseID {
	b.t.Helper()
	resp, err := l.Grant(b.ctx(), ttl)
	require.NoError(b.t, err)
	return resp.ID
}

func (b *leaseBench) put(kv clientv3.KV, key, value string, opts ...clientv3.OpOption) int64 {
	b.t.Helper()
	resp, err := kv.Put(b.ctx(), key, value, opts...)
	require.NoError(b.t, err)
	return resp.Header.Revision
}

// expect waits until exactly these keys are left with a prefix.
func (b *leaseBench) expect(kv clientv3.KV, prefix string, keys ...string) {
	b.t.Helper()
	var got []string
	for deadline := time.Now().Add(workload.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := kv.Get(b.ctx(), prefix, clientv3.WithPrefix())
		require.NoError(b.t, err)
		got = nil
		for _, kv := range resp.Kvs {
			got = append(got, string(kv.Key))
		}
		if slices.Equal(got, keys) {
			return
		}
	}
	require.Equal(b.t, keys, got)
}

// expectNothingLeft waits until no record of any lease is left.
func (b *leaseBench) expectNothingLeft() {
	b.t.Helper()
	cli, _ := b.open() // reaps
	for deadline := time.Now().Add(workload.Patience); len(b.leftovers()) > 0 && time.Now().Before(deadline); time.Sleep(tick) {
	}
	require.Empty(b.t, b.leftovers())
	require.NoError(b.t, cli.Close())
}

// tick is how often something is looked at that nothing announces.
const tick = 50 * time.Millisecond

// leftovers are the reserved records about leases on all members, sentinels on the coordinator included.
func (b *leaseBench) leftovers() []string {
	b.t.Helper()
	var names []string
	for _, n := range b.cluster.Nodes() {
		cli := n.DirectClient(b.t)
		for _, prefix := range []string{"\x00lease/", "\x00~attached/", "\x00metaetcd/lease/"} {
			resp, err := cli.Get(b.ctx(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
			require.NoError(b.t, err)
			for _, kv := range resp.Kvs {
				names = append(names, fmt.Sprintf("%s: %q", n.Name(), kv.Key))
			}
		}
		require.NoError(b.t, cli.Close())
	}
	return names
}

// TestReaperKilledAtEveryStep: a process dies before and after each request that it takes to revoke a lease. Others finish what
// it has begun, at once or, if there are none, when one starts: no key of the lease stays, and none that was rewritten, detached or
// attached to another lease goes.
func TestReaperKilledAtEveryStep(t *testing.T) {
	t.Run("beside others", func(t *testing.T) {
		t.Parallel()
		b := newLeaseBench(t)
		witness, _ := b.open()
		var survived atomic.Int32
		t.Run("steps", func(t *testing.T) {
			for _, step := range stepsOfReaping(2) {
				t.Run(fmt.Sprint(step), func(t *testing.T) {
					t.Parallel()
					if (&leaseBench{t, b.cluster}).killReaper(witness, step) {
						survived.Add(1)
					}
				})
			}
		})
		require.NotZero(t, survived.Load(), "a revocation takes more steps")
		require.Less(t, survived.Load(), int32(maxSteps/4), "hardly anybody was killed")
		b.expectNothingLeft()
	})
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		b := newLeaseBench(t)
		for _, step := range stepsOfReaping(8) {
			if b.killReaper(nil, step) {
				break
			}
		}
		b.expectNothingLeft()
	})
}

// maxSteps is more than the requests of a revocation, and their answers.
const maxSteps = 60

// stepsOfReaping are all steps, or, in short tests, every so many of them.
func stepsOfReaping(stride int) (steps []int) {
	if long() {
		stride = 1
	}
	for step := 1 + rand.IntN(stride); step <= maxSteps; step += stride {
		steps = append(steps, step)
	}
	return steps
}

// killReaper kills a process at a step of a revocation, and reports whether it got through before. Without a witness there is no
// other process then.
func (b *leaseBench) killReaper(witness *metaetcd.Client, step int) (survived bool) {
	b.t.Helper()
	reaper, w := b.open()
	id, other := b.grant(reaper, 3600), b.grant(reaper, 3600)
	prefix := fmt.Sprintf("%d.%x/", step, id)
	gone := "gone" + strings.ReplaceAll(prefix, "/", "-")
	var first int64
	for i := range 8 { // first segments differ, so they lie on both members
		first = max(first, b.put(reaper, fmt.Sprintf("%s%d/", gone, i), "", clientv3.WithLease(id)))
	}
	for _, name := range []string{"attached", "detached", "later", "rewritten"} {
		b.put(reaper, prefix+name, "", clientv3.WithLease(id))
	}
	b.put(reaper, prefix+"detached", "")
	died, done := make(chan struct{}), make(chan error, 1)
	w.onDeath = func() { close(died) }
	w.countdown.Store(int32(step))
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	go func() {
		_, err := reaper.Revoke(ctx, id)
		done <- err
	}()
	if witness != nil {
		b.put(witness, prefix+"rewritten", "")
		b.put(witness, prefix+"attached", "", clientv3.WithLease(other))
	}
	select {
	case <-died:
		cancel()
		b.t.Log("killed:", <-done)
	case err := <-done:
		survived = true
		require.NoError(b.t, err)
	}
	closed := make(chan struct{})
	go func() { defer close(closed); _ = reaper.Close() }()
	defer func() { <-closed }()
	if witness == nil {
		witness, _ = b.open()
		defer func() { require.NoError(b.t, witness.Close()) }()
		b.put(witness, prefix+"rewritten", "")
		b.put(witness, prefix+"attached", "", clientv3.WithLease(other))
	}
	left, err := witness.TimeToLive(b.ctx(), id)
	require.NoError(b.t, err)
	if left.TTL >= 0 { // it died before it had begun
		_, err = witness.Revoke(b.ctx(), id)
		require.NoError(b.t, err)
	}
	b.put(witness, prefix+"later", "")
	b.expect(witness, prefix, prefix+"attached", prefix+"detached", prefix+"later", prefix+"rewritten")
	b.expect(witness, gone)
	b.requireDeletes(witness, first+1, int64(id), 8)
	_, err = witness.Revoke(b.ctx(), other)
	require.NoError(b.t, err)
	b.expect(witness, prefix, prefix+"detached", prefix+"later", prefix+"rewritten")
	return survived
}

// TestSlowReaper: a reaper is held up before and after each of its requests. Meanwhile another one brings the lease to its end, the id is
// granted again, and keys are put again, attached to it, to another lease or to none. Whatever the slow one does then, these stay.
func TestSlowReaper(t *testing.T) {
	b := newLeaseBench(t)
	witness, _ := b.open()
	for _, step := range stepsOfReaping(3) {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			(&leaseBench{t, b.cluster}).slowReaper(witness, step)
		})
	}
}

func (b *leaseBench) slowReaper(witness *metaetcd.Client, step int) {
	b.t.Helper()
	reaper, w := b.open()
	id, other := b.grant(reaper, 3600), b.grant(reaper, 3600)
	prefix := fmt.Sprintf("%d.%x/", step, id)
	names := []string{prefix + "again", prefix + "attached", prefix + "rewritten"}
	for _, k := range names {
		b.put(reaper, k, "", clientv3.WithLease(id))
	}
	paused := make(chan struct{})
	w.pause = func() {
		defer close(paused)
		b.put(witness, prefix+"rewritten", "")
		b.put(witness, prefix+"attached", "", clientv3.WithLease(other))
		if _, err := witness.Revoke(b.ctx(), id); err != nil {
			require.ErrorContains(b.t, err, "lease not found")
		}
		b.regrant(witness, id)
		b.put(witness, prefix+"again", "new", clientv3.WithLease(id))
	}
	w.countdown.Store(int32(step))
	// It is the new grant that a slow revocation may end, if it had not found the old one yet.
	_, err := reaper.Revoke(b.ctx(), id)
	if w.countdown.Swap(0) > 0 { // it had done before
		return
	}
	<-paused // it may have been a request behind the revocation's back
	left, lerr := witness.TimeToLive(b.ctx(), id)
	require.NoError(b.t, lerr)
	if left.TTL < 0 {
		require.NoError(b.t, err)
		names = names[1:]
	}
	b.expect(witness, prefix, names...)
	time.Sleep(100 * time.Millisecond) // for what comes late
	b.expect(witness, prefix, names...)
	for _, l := range []clientv3.LeaseID{id, other} {
		if _, err := witness.Revoke(b.ctx(), l); err != nil {
			require.ErrorContains(b.t, err, "lease not found")
		}
	}
	b.expect(witness, prefix, prefix+"rewritten")
}

// regrant grants a lease with a chosen id.
func (b *leaseBench) regrant(cli *metaetcd.Client, id clientv3.LeaseID) {
	b.t.Helper()
	var srv capture
	cli.Register(&srv)
	_, err := srv.LeaseGrant(b.ctx(), &pb.LeaseGrantRequest{ID: int64(id), TTL: 3600})
	require.NoError(b.t, err)
}

// capture keeps the lease service that is registered on it.
type capture struct{ pb.LeaseServer }

func (c *capture) RegisterService(_ *grpc.ServiceDesc, impl any) {
	if s, ok := impl.(pb.LeaseServer); ok {
		c.LeaseServer = s
	}
}

// requireDeletes: a watch from a revision sees so many keys whose names begin with "gone" deleted, each once, in order, with the
// lease in the previous value.
func (b *leaseBench) requireDeletes(cli clientv3.Watcher, from, lease int64, n int) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx())
	defer cancel()
	seen := map[string]bool{}
	last := from
	for resp := range cli.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithPrevKV(), clientv3.WithFilterPut()) {
		require.NoError(b.t, resp.Err())
		for _, ev := range resp.Events {
			require.GreaterOrEqual(b.t, ev.Kv.ModRevision, last)
			last = ev.Kv.ModRevision
			if ev.PrevKv.Lease != lease {
				continue // of another test
			}
			require.False(b.t, seen[string(ev.Kv.Key)], "deleted twice: %s", ev.Kv.Key)
			seen[string(ev.Kv.Key)] = true
			if strings.HasPrefix(string(ev.Kv.Key), "gone") {
				n--
			}
		}
		if n == 0 {
			return
		}
	}
	require.Zero(b.t, n, "deletes that were not seen")
}

// TestExpiryWithoutProcesses: the only process dies. When one starts again, the keys of the leases that ended meanwhile go, and a watch
// that resumes from before sees it.
func TestExpiryWithoutProcesses(t *testing.T) {
	b := newLeaseBench(t)
	cli, w := b.open()
	short, lasting := b.grant(cli, 5), b.grant(cli, 3600)
	var rev int64
	for i := range 8 {
		rev = b.put(cli, fmt.Sprintf("gone%d/", i), "", clientv3.WithLease(short))
		b.put(cli, fmt.Sprintf("kept%d/", i), "", clientv3.WithLease(lasting))
	}
	w.dead.Store(true)
	require.NoError(t, cli.Close())
	timers, ctx := b.cluster.Coordinator.DirectClient(t), b.ctx()
	require.Eventually(t, func() bool {
		running, err := timers.Leases(ctx)
		return err == nil && len(running.Leases) == 1
	}, workload.Patience, tick, "the lease does not run out")

	again, _ := b.open()
	b.expect(again, "gone")
	b.requireDeletes(again, rev+1, int64(short), 8)
	resp, err := again.TimeToLive(b.ctx(), lasting, clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.Len(t, resp.Keys, 8)
	_, err = again.Revoke(b.ctx(), lasting)
	require.NoError(t, err)
	b.expectNothingLeft()
}

// TestCoordinatorLostWithLeases: the coordinator is wiped while leases live. None ends early, each ends at most one TTL later than
// it would have, and keep-alives go on.
func TestCoordinatorLostWithLeases(t *testing.T) {
	const (
		ttl       = 5 * time.Second
		late      = 10 * time.Second // for a busy machine: noticing, reaping
		ttlOfKept = 15 * time.Second // clientv3 gives a lease up that was not renewed for so long
	)
	b := newLeaseBench(t)
	a, _ := b.open()
	c, _ := b.open()
	type dying struct {
		key     string
		granted time.Time
	}
	var all []dying
	begin := time.Now()
	kept := b.grant(a, int64(ttlOfKept/time.Second))
	alive, err := c.KeepAlive(t.Context(), kept)
	require.NoError(t, err)
	b.put(a, "kept", "", clientv3.WithLease(kept))
	for i := range 6 {
		granted := time.Now()
		id := b.grant(a, int64(ttl/time.Second))
		d := dying{fmt.Sprintf("dying%d/", i), granted}
		b.put(c, d.key, "", clientv3.WithLease(id))
		all = append(all, d)
		time.Sleep(rand.N(300 * time.Millisecond))
	}
	b.cluster.Coordinator.Stop()
	b.cluster.Coordinator.Wipe()
	time.Sleep(rand.N(500 * time.Millisecond))
	b.cluster.Coordinator.Start()

	for len(all) > 0 {
		all = slices.DeleteFunc(all, func(d dying) bool {
			before := time.Now()
			resp, err := a.Get(b.ctx(), d.key)
			require.NoError(t, err)
			if len(resp.Kvs) > 0 {
				require.Less(t, before.Sub(d.granted), 2*ttl+late, "%s lives on", d.key)
				return false
			}
			require.Greater(t, time.Since(d.granted), ttl-time.Millisecond, "%s ended early", d.key)
			return true
		})
		time.Sleep(20 * time.Millisecond)
	}
	for len(alive) > 0 {
		<-alive
	}
	select {
	case resp, ok := <-alive:
		require.True(t, ok, "the keep-alive ended")
		require.EqualValues(t, ttlOfKept/time.Second, resp.TTL)
	case <-time.After(workload.Patience):
		require.FailNow(t, "no keep-alive", "%s after the beginning", time.Since(begin))
	}
	b.expect(a, "kept", "kept")
}
