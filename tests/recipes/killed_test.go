package recipes

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

// holderRole is a process that takes a lock, and may take the leadership, and keeps them until it is killed.
const holderRole = "holder"

// holding is what a holder takes.
type holding struct {
	Servers    rig.Target
	Lock       string
	Leadership string // empty: none
}

// hold is what a holder does. Its answer is its lease.
func hold(ctx context.Context, config []byte) (answer string, cleanup func() error, err error) {
	var h holding
	if err := json.Unmarshal(config, &h); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	side, err := h.Servers.Open(ctx)
	if err != nil {
		return "", nil, err
	}
	cli, err := rig.Dial(ctx, h.Servers.Members[0].Endpoint)
	if err != nil {
		return "", nil, errors.Join(err, side.Close())
	}
	side.Meta.Install(cli)
	cleanup = func() error { return errors.Join(cli.Close(), side.Close()) }
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(ttl))
	if err == nil {
		err = concurrency.NewMutex(s, h.Lock).Lock(ctx)
	}
	if err == nil && h.Leadership != "" {
		err = concurrency.NewElection(s, h.Leadership).Campaign(ctx, holderRole)
	}
	if err != nil {
		return "", nil, errors.Join(err, cleanup())
	}
	return strconv.FormatInt(int64(s.Lease()), 10), cleanup, nil
}

// serversOf is where a meta cluster is found.
func serversOf(cluster *metaetcdtest.Cluster, sharding metaetcd.Sharding) rig.Target {
	servers := rig.Target{Coordinator: cluster.Coordinator.Endpoint(), Sharding: sharding}
	for _, m := range cluster.Members {
		servers.Members = append(servers.Members, rig.Address{Name: m.Name(), Endpoint: m.Endpoint()})
	}
	return servers
}

// TestProcessKilled: a process is killed that has a lock, and the leadership. Others go on when its lease has ended, and no sooner.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	const lock, leadership = "lock", "leader"
	sharding := metaetcd.Sharding{}
	cluster := newCluster(t, sharding)
	ps := startOn(t, cluster, 2)
	holder, err := rig.Spawn(holderRole, holding{serversOf(cluster, sharding), lock, leadership})
	require.NoError(t, err)
	t.Cleanup(func() { _ = holder.Kill() })
	id, err := strconv.ParseInt(holder.Answer, 10, 64)
	require.NoError(t, err)
	m, e := concurrency.NewMutex(session(t, ps[0]), lock), concurrency.NewElection(session(t, ps[1]), leadership)
	require.Equal(t, concurrency.ErrLocked, m.TryLock(ctx(t)))
	leader, err := e.Leader(ctx(t))
	require.NoError(t, err)
	require.Equal(t, holderRole, string(leader.Kvs[0].Value))

	type outcome struct {
		at  time.Time
		err error
	}
	taken := make(chan outcome, 2)
	waiting := ctx(t)
	go func() { err := m.Lock(waiting); taken <- outcome{time.Now(), err} }()
	go func() { err := e.Campaign(waiting, "next"); taken <- outcome{time.Now(), err} }()
	for _, prefix := range []string{lock, leadership} {
		require.Eventually(t, func() bool {
			resp, err := ps[0].Get(ctx(t), prefix+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err == nil && resp.Count == 2
		}, patience, time.Millisecond, "nobody waits for the %s", prefix)
	}
	renewed := time.Now() // its lease lasts a whole TTL from here
	_, err = ps[1].KeepAliveOnce(ctx(t), clientv3.LeaseID(id))
	require.NoError(t, err)
	require.NoError(t, holder.Kill())
	for range 2 {
		next := <-taken
		require.NoError(t, next.err)
		require.GreaterOrEqual(t, next.at.Sub(renewed), ttl*time.Second, "the dead one's lease had not ended")
	}
	leader, err = e.Leader(ctx(t))
	require.NoError(t, err)
	require.Equal(t, "next", string(leader.Kvs[0].Value))
}
