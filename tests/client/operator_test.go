package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// TestAlarms: Health tells them, and an error of one member says whose it is to those who look.
func TestAlarms(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli := cluster.Client(t)
	key := keyOn(t, cluster, 1, "k")
	for _, node := range []*metaetcdtest.Node{cluster.Members[1], cluster.Coordinator} {
		etcd := node.DirectClient(t)
		for alarm, want := range map[pb.AlarmType]error{pb.AlarmType_NOSPACE: rpctypes.ErrNoSpace, pb.AlarmType_CORRUPT: rpctypes.ErrCorrupt} {
			set := func(action pb.AlarmRequest_AlarmAction) {
				t.Helper()
				_, err := pb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(within(t, patience), &pb.AlarmRequest{Action: action, MemberID: 1, Alarm: alarm})
				require.NoError(t, err)
			}
			require.NoError(t, cli.Health(within(t, patience)))
			set(pb.AlarmRequest_ACTIVATE)
			err := cli.Health(within(t, soon))
			var member *metaetcd.MemberError
			require.ErrorAs(t, err, &member)
			require.ErrorContains(t, err, node.Name())
			if node == cluster.Members[1] {
				require.ErrorIs(t, err, want)
				require.Equal(t, node.Name(), member.Member)
			}
			if node == cluster.Members[1] && alarm == pb.AlarmType_NOSPACE {
				_, err := cli.Put(within(t, patience), key, "v")
				require.ErrorIs(t, err, rpctypes.ErrNoSpace)
				require.ErrorAs(t, err, &member)
				require.Equal(t, node.Name(), member.Member)
				require.Equal(t, codes.ResourceExhausted, status.Code(err))
				installed := cluster.Members[0].Client(t)
				cli.Install(installed)
				_, err = installed.Put(within(t, patience), key, "v")
				require.Equal(t, rpctypes.ErrNoSpace, err, "what was written for etcd compares with ==")
			}
			set(pb.AlarmRequest_DEACTIVATE)
			require.Eventually(t, func() bool { return cli.Health(within(t, patience)) == nil }, patience, tick)
		}
	}
	put(t, cli, key, "v")
}

// TestForeignKeys: what somebody else has written to a member is refused by New where it sees it, and told by Health, with the member's
// name.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	first, err := metaetcd.New(within(t, patience), cluster.Config())
	require.NoError(t, err)
	fill(t, first, "k", 2500, 10)
	require.NoError(t, first.Close())
	name, etcd := cluster.Members[1].Name(), cluster.Members[1].DirectClient(t)
	for _, foreign := range []string{"a", "k", "k0001x"} {
		_, err = etcd.Put(within(t, patience), foreign, "what somebody wrote")
		require.NoError(t, err)
		_, err = metaetcd.New(within(t, patience), cluster.Config())
		require.ErrorIs(t, err, metaetcd.ErrNotEmpty)
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, fmt.Sprintf("%q", foreign))
		_, err = etcd.Delete(within(t, patience), foreign)
		require.NoError(t, err)
	}
	_, err = etcd.Put(within(t, patience), "z", "") // behind what New looks at
	require.NoError(t, err)
	cli := open(t, cluster.Config())
	var told *metaetcd.ForeignKeyError
	for range 3 { // a thousand keys at a time
		if err = cli.Health(within(t, patience)); err != nil {
			break
		}
	}
	require.ErrorAs(t, err, &told)
	require.Equal(t, name, told.Member)
	require.Equal(t, "z", string(told.Key))
	_, err = cli.Get(within(t, patience), "k", clientv3.WithFromKey())
	require.ErrorAs(t, err, &told)
	require.Equal(t, name, told.Member)
}

// TestWipedMember: a member that comes back without its data is in the log once, and in Health.
func TestWipedMember(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2)
	cli, logs := observed(t, cluster.Config())
	for i := range 20 {
		put(t, cli, fmt.Sprint("k", i), "v")
	}
	require.NoError(t, cli.Health(within(t, patience)))
	cluster.Members[1].Stop()
	cluster.Members[1].Wipe()
	cluster.Members[1].Start()
	for range 3 {
		require.Eventually(t, func() bool {
			err := cli.Health(within(t, soon))
			return err != nil && strings.Contains(err.Error(), "member "+cluster.Members[1].Name()+" has lost its data")
		}, patience, tick)
	}
	require.Equal(t, 1, logs.FilterMessageSnippet("a member has lost its data").Len())
}

// TestAuth: with etcd's users on, metaetcd needs one that may read and write all keys, and nobody else can write.
func TestAuth(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 2, metaetcdtest.WithEtcdConfig(func(cfg *embed.Config) { cfg.BcryptCost = 4 })) // hashing takes long
	for _, node := range cluster.Nodes() {
		protect(t, node.DirectClient(t))
	}
	as := func(user string) metaetcd.Config {
		cfg := metaetcd.Config{Coordinator: login(t, cluster.Coordinator, user), Sharding: metaetcd.Sharding{Slots: slots}}
		for _, m := range cluster.Members {
			cfg.Members = append(cfg.Members, metaetcd.Member{Name: m.Name(), Client: login(t, m, user)})
		}
		return cfg
	}
	_, err := metaetcd.New(within(t, patience), as("other"))
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	require.ErrorContains(t, err, "metaetcd: coordinator: ")
	require.ErrorContains(t, err, "needs readwrite on all keys")
	cli := open(t, as("metaetcd"))
	w := cli.Watch(t.Context(), "k", clientv3.WithPrefix())
	lease, err := cli.Grant(within(t, patience), 60)
	require.NoError(t, err)
	_, err = cli.Put(within(t, patience), "k", "v", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	_, err = cli.KeepAliveOnce(within(t, patience), lease.ID)
	require.NoError(t, err)
	_, err = cli.Txn(within(t, patience)).Then(clientv3.OpPut("k1", "v"), clientv3.OpPut("k2", "v"), clientv3.OpPut("k3", "v")).Commit()
	require.NoError(t, err)
	_, err = cli.Revoke(within(t, patience), lease.ID)
	require.NoError(t, err)
	take(t, w, 5)
	require.Equal(t, []string{"k1=v", "k2=v", "k3=v"}, list(t, cli))
	require.NoError(t, cli.Health(within(t, patience)))
	_, err = cli.Compact(within(t, patience), 2)
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied, "etcd has that for root alone")
	require.ErrorContains(t, err, "to compact, the role root")
	_, err = login(t, cluster.Members[0], "other").Put(within(t, patience), "k", "stray")
	require.Equal(t, rpctypes.ErrPermissionDenied, err)
}

// protect turns on etcd's users: root, one for metaetcd as docs/operations.md has it, and one who may do nothing.
func protect(t *testing.T, etcd *clientv3.Client) {
	t.Helper()
	ctx := within(t, patience)
	steps := []func() error{
		func() error { _, err := etcd.RoleAdd(ctx, "metaetcd"); return err },
		func() error {
			_, err := etcd.RoleGrantPermission(ctx, "metaetcd", "\x00", "\x00", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
	}
	for user, role := range map[string]string{"root": "root", "metaetcd": "metaetcd", "other": ""} {
		steps = append(steps, func() error { _, err := etcd.UserAdd(ctx, user, "pw"); return err })
		if role != "" {
			steps = append(steps, func() error { _, err := etcd.UserGrantRole(ctx, user, role); return err })
		}
	}
	steps = append(steps, func() error { _, err := etcd.AuthEnable(ctx); return err })
	for i, step := range steps {
		require.NoError(t, step(), "step %d", i)
	}
}

func login(t *testing.T, node *metaetcdtest.Node, user string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: node.Endpoints(), Username: user, Password: "pw", Context: context.Background()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}
