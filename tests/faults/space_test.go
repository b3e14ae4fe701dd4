package faults

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// noSpace raises the alarm that makes a member refuse everything that needs space, and returns what ends it.
func (b *bench) noSpace(member int) (raise, disarm func() error) {
	b.t.Helper()
	m := pb.NewMaintenanceClient(b.cluster.Members[member].DirectClient(b.t).ActiveConnection())
	alarm := func(do pb.AlarmRequest_AlarmAction) func() error {
		return func() error {
			_, err := m.Alarm(b.t.Context(), &pb.AlarmRequest{Action: do, MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
			return err
		}
	}
	return alarm(pb.AlarmRequest_ACTIVATE), alarm(pb.AlarmRequest_DEACTIVATE)
}

// TestNoSpaceUnderLocks: a member has no space for the locks of a transaction. It fails, and gives back what it has locked.
func TestNoSpaceUnderLocks(t *testing.T) {
	b := newBench(t, 1)
	cli := b.processes[0].meta
	one, two := b.groups[0][0]+"k0", b.groups[1][0]+"k0"
	raise, disarm := b.noSpace(1)
	require.NoError(t, raise())
	_, err := cli.Txn(patient(t)).Then(clientv3.OpPut(one, "v"), clientv3.OpPut(two, "v")).Commit()
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	_, err = cli.Delete(patient(t), "g", clientv3.WithPrefix())
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	_, err = cli.Txn(patient(t)).Then(clientv3.OpPut(one, "w"), clientv3.OpPut(b.groups[2][0]+"k0", "w")).Commit()
	require.NoError(t, err)
	require.NoError(t, disarm())
	_, err = cli.Txn(patient(t)).Then(clientv3.OpPut(one, "x"), clientv3.OpPut(two, "x")).Commit()
	require.NoError(t, err)
}

// TestNoSpaceForADecidedPart: the space runs out between the locks and the part. The closed revision stands still then, and what is
// below can be compacted, to make space. Then the part is applied.
func TestNoSpaceForADecidedPart(t *testing.T) {
	b := newBench(t, 1)
	p := b.processes[0]
	one, two := b.groups[0][0]+"k0", b.groups[1][0]+"k0"
	raise, disarm := b.noSpace(1)
	raise = sync.OnceValue(raise)
	around := func(p phase) func() {
		if p == decide {
			_ = raise()
		}
		return func() {}
	}
	p.wire.around.Store(&around)
	before, err := p.meta.Put(patient(t), one, "before")
	require.NoError(t, err)
	txn, err := p.meta.Txn(patient(t)).Then(clientv3.OpPut(one, "v"), clientv3.OpPut(two, "v")).Commit()
	require.NoError(t, err)
	require.NoError(t, raise())
	compacted, err := p.meta.Compact(patient(t), before.Header.Revision)
	require.NoError(t, err)
	require.Less(t, p.meta.ClosedRevision(), txn.Header.Revision, "the part has yet to land")
	require.Equal(t, txn.Header.Revision, compacted.Header.Revision, "what was told before is covered")
	_, err = p.meta.Get(patient(t), one, clientv3.WithRev(before.Header.Revision-1), clientv3.WithSerializable())
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	require.Eventually(t, func() bool {
		return p.logs.FilterMessageSnippet("a member refuses a part").FilterField(zap.String("member", "member-1")).Len() == 1
	}, workload.Patience, pace)

	require.NoError(t, disarm())
	for _, k := range []string{one, two} {
		resp, err := p.meta.Get(patient(t), k)
		require.NoError(t, err)
		require.Equal(t, "v", string(resp.Kvs[0].Value))
	}
}

// TestOutOfSpace: what an etcd without space lets through, and how a member without space comes back. It takes deletes, alone and in
// transactions of nothing else. A meta cluster's have puts beside them, which say when they happened, so it fails them.
func TestOutOfSpace(t *testing.T) {
	const small, large = 16 << 20, 128 << 20
	var quota atomic.Int64
	quota.Store(small)
	b := newBench(t, 1, metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) {
		if cfg.Name == "member-0-0" {
			cfg.QuotaBackendBytes = quota.Load()
		}
	}))
	c, cli := b.cluster, b.processes[0].meta
	member, group := c.Members[0].DirectClient(t), b.groups[0][0]
	key := func(i int) string { return fmt.Sprint(group, "k", i) }
	value := strings.Repeat("v", 256<<10)
	var err error
	n := 0
	for ; err == nil; n++ {
		_, err = cli.Put(patient(t), key(n), value)
	}
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	first, err := cli.Get(patient(t), key(0))
	require.NoError(t, err)

	// Etcd alone. Nothing of this changes anything.
	absent := clientv3.OpDelete("\x00absent")
	_, err = member.Do(patient(t), absent)
	require.NoError(t, err, "a delete")
	_, err = member.Txn(patient(t)).Then(absent, clientv3.OpDelete("\x00absent, too")).Commit()
	require.NoError(t, err, "deletes alone")
	_, err = member.Txn(patient(t)).If(clientv3.Compare(clientv3.Version("\x00absent"), "=", 0)).Then(absent).Else(clientv3.OpPut("\x00absent", "")).Commit()
	require.ErrorIs(t, err, rpctypes.ErrNoSpace, "a put on a branch that is not taken")
	_, err = cli.Delete(patient(t), key(0))
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	_, err = cli.Compact(patient(t), first.Header.Revision)
	require.ErrorIs(t, err, rpctypes.ErrNoSpace, "its record is on the first member")

	// The way back: with more space, delete, compact, defragment; then with as much as before.
	size := func() string {
		st, err := member.Status(patient(t), member.Endpoints()[0])
		require.NoError(t, err)
		return fmt.Sprintf("%d bytes, %d in use", st.DbSize, st.DbSizeInUse)
	}
	t.Logf("out of space after %d keys: %s", n, size())
	restart := func(bytes int64) {
		c.Members[0].Stop()
		quota.Store(bytes)
		c.Members[0].Start()
		_, err := member.AlarmDisarm(patient(t), &clientv3.AlarmMember{})
		require.NoError(t, err)
	}
	restart(large)
	_, err = cli.Delete(patient(t), group, clientv3.WithPrefix())
	require.NoError(t, err)
	last, err := cli.Put(patient(t), key(0), value)
	require.NoError(t, err)
	_, err = cli.Compact(patient(t), last.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	_, err = member.Defragment(patient(t), member.Endpoints()[0])
	require.NoError(t, err)
	t.Logf("with more space, the keys deleted, compacted and defragmented: %s", size())
	restart(small)
	for i := range n / 4 {
		_, err = cli.Put(patient(t), key(i), value)
		require.NoError(t, err)
	}
}
