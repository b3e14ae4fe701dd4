package faults

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

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
