package client

import (
	"testing"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// etcds is what the cases of TestTopologyErrors are put together from. The clients are shared by all cases: New only borrows.
type etcds struct {
	home, other  metaetcd.Config    // two meta clusters that are in use
	blank, spare *clientv3.Client   // empty etcds
	used         *clientv3.Client   // an etcd with somebody's key in it
	all          []*clientv3.Client // every etcd there is
}

func newEtcds(t *testing.T) *etcds {
	home, other := newCluster(t, 3), newCluster(t, 1)
	for _, cluster := range []*metaetcdtest.Cluster{home, other} {
		cli := cluster.Client(t)
		put(t, cli, "k", "v")
		require.NoError(t, cli.Close())
	}
	e := &etcds{home: home.Config(), other: other.Config()}
	nodes := append(home.Nodes(), other.Nodes()...)
	for _, cli := range []**clientv3.Client{&e.blank, &e.spare, &e.used} {
		n := metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync())
		*cli = n.Client(t)
		nodes = append(nodes, n)
	}
	put(t, e.used, "app/key", "theirs")
	e.all = directClients(t, nodes...)
	return e
}

// fresh is a configuration of empty etcds, which would become a meta cluster.
func (e *etcds) fresh() metaetcd.Config {
	return metaetcd.Config{Coordinator: e.blank, Members: []metaetcd.Member{{Name: "m", Client: e.spare}}, Sharding: e.home.Sharding}
}

// topologyCase makes a configuration that is wrong by change. The error says says, beside the member's name.
type topologyCase struct {
	name   string
	base   func(*etcds) metaetcd.Config // nil: home
	change func(*etcds, *metaetcd.Config)
	kind   error
	member string
	says   []string
}

var topologyCases = []topologyCase{
	{
		name:   "missing member",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Members = cfg.Members[:2] },
		kind:   topology.ErrMissingMember, member: "member-2", says: []string{"[member-0 member-1 member-2]", "got [member-0 member-1]"},
	},
	{
		name: "extra member",
		change: func(e *etcds, cfg *metaetcd.Config) {
			cfg.Members = append(cfg.Members, metaetcd.Member{Name: "member-3", Client: e.blank})
		},
		kind: topology.ErrUnknownMember, member: "member-3", says: []string{"got [member-0 member-1 member-2 member-3]"},
	},
	{
		name: "swapped names",
		change: func(_ *etcds, cfg *metaetcd.Config) {
			cfg.Members[0].Client, cfg.Members[1].Client = cfg.Members[1].Client, cfg.Members[0].Client
		},
		kind: topology.ErrSwappedMember, member: "member-0", says: []string{"want member-0", "got member-1"},
	},
	{
		name:   "renamed member",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Members[1].Name = "berlin" },
		kind:   topology.ErrRenamedMember, member: "berlin", says: []string{"want member-1", "got berlin"},
	},
	{
		name:   "member of another meta cluster",
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Members[0].Client = e.other.Members[0].Client },
		kind:   topology.ErrForeignMember, member: "member-0",
	},
	{
		name:   "empty etcd in place of a member",
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Members[2].Client = e.blank },
		kind:   topology.ErrLostMember, member: "member-2",
	},
	{
		name:   "one etcd as two members",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Members[2].Client = cfg.Members[1].Client },
		kind:   topology.ErrSameCluster, member: "member-2", says: []string{"as member member-1"},
	},
	{
		name:   "other slot count",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Sharding.Slots = 128 },
		kind:   topology.ErrSlots, member: "member-0", says: []string{"want 64", "got 128"},
	},
	{
		name:   "other sharding",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Sharding.Segments = 2 },
		kind:   topology.ErrPolicy, member: "member-0", says: []string{"want the whole key", "got the first 2 segments, ended by '/'"},
	},
	{
		name: "coordinator and member swapped",
		change: func(_ *etcds, cfg *metaetcd.Config) {
			cfg.Coordinator, cfg.Members[0].Client = cfg.Members[0].Client, cfg.Coordinator
		},
		kind: topology.ErrNotEmpty, says: []string{"the coordinator holds data"},
	},
	{
		name:   "a member as coordinator too",
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Coordinator = cfg.Members[0].Client },
		kind:   topology.ErrNotEmpty, says: []string{"the coordinator holds data"},
	},
	{
		name:   "empty etcd in place of the coordinator",
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Coordinator = e.blank },
		kind:   topology.ErrWrongCoordinator, member: "member-0", says: []string{"the coordinator is another", "want ", "got "},
	},
	{
		name:   "another meta cluster's coordinator",
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Coordinator = e.other.Coordinator },
		kind:   topology.ErrWrongCoordinator, member: "member-0", says: []string{"the coordinator is another"},
	},
	{
		name:   "coordinator that somebody uses",
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Coordinator = e.used },
		kind:   topology.ErrNotEmpty, says: []string{"the coordinator holds data", `"app/key"`},
	},
	{
		name: "new, with a coordinator that somebody uses", base: (*etcds).fresh,
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Coordinator = e.used },
		kind:   topology.ErrNotEmpty, says: []string{"the coordinator holds data", `"app/key"`},
	},
	{
		name: "new, with another meta cluster's coordinator", base: (*etcds).fresh,
		change: func(e *etcds, cfg *metaetcd.Config) { cfg.Coordinator = e.other.Coordinator },
		kind:   topology.ErrForeignCoordinator,
	},
	{
		name: "new, with a member that somebody uses", base: (*etcds).fresh,
		change: func(e *etcds, cfg *metaetcd.Config) {
			cfg.Members = append(cfg.Members, metaetcd.Member{Name: "n", Client: e.used})
		},
		kind: topology.ErrNotEmpty, member: "n", says: []string{`"app/key"`},
	},
	{
		name: "new, with another meta cluster's member", base: (*etcds).fresh,
		change: func(e *etcds, cfg *metaetcd.Config) {
			cfg.Members = append(cfg.Members, metaetcd.Member{Name: "n", Client: e.other.Members[0].Client})
		},
		kind: topology.ErrRenamedMember, member: "n", says: []string{"want member-0"},
	},
	{
		name: "new, with one etcd for everything", base: (*etcds).fresh,
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Coordinator = cfg.Members[0].Client },
		kind:   topology.ErrSameCluster, member: "m", says: []string{"as the coordinator"},
	},
	{
		name: "no members", base: (*etcds).fresh,
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Members = nil },
		kind:   topology.ErrConfig,
	},
	{
		name: "member without a name", base: (*etcds).fresh,
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Members[0].Name = "" },
		kind:   topology.ErrConfig,
	},
	{
		name: "two members of one name", base: (*etcds).fresh,
		change: func(e *etcds, cfg *metaetcd.Config) {
			cfg.Members = append(cfg.Members, metaetcd.Member{Name: "m", Client: e.used})
		},
		kind: topology.ErrConfig, says: []string{`"m"`},
	},
	{
		name: "negative slot count", base: (*etcds).fresh,
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Sharding.Slots = -1 },
		kind:   topology.ErrConfig,
	},
	{
		name: "negative segments", base: (*etcds).fresh,
		change: func(_ *etcds, cfg *metaetcd.Config) { cfg.Sharding.Segments = -1 },
		kind:   topology.ErrConfig,
	},
}

// TestTopologyErrors: every wrong configuration is refused by an error that says what is wrong with which member, and
// nothing is written to any etcd.
func TestTopologyErrors(t *testing.T) {
	e := newEtcds(t)
	before := nativeRevisions(t, e.all)
	for _, c := range topologyCases {
		t.Run(c.name, func(t *testing.T) {
			cfg := e.home
			if c.base != nil {
				cfg = c.base(e)
			}
			cfg.Members = append([]metaetcd.Member{}, cfg.Members...)
			c.change(e, &cfg)

			cli, err := metaetcd.New(within(t, patience), cfg)
			if err == nil {
				require.NoError(t, cli.Close())
			}
			var wrong *metaetcd.TopologyError
			require.ErrorAs(t, err, &wrong)
			require.ErrorIs(t, err, c.kind)
			require.Equal(t, c.member, wrong.Member)
			for _, s := range append(c.says, "metaetcd: ", c.member) {
				require.ErrorContains(t, err, s)
			}
			requireNoneLeft(t)
			require.Equal(t, before, nativeRevisions(t, e.all), "something was written")
		})
	}
	// All of them are as good as before.
	for _, cfg := range []metaetcd.Config{e.home, e.other} {
		require.Equal(t, []string{"k=v"}, list(t, open(t, cfg)))
	}
	require.Empty(t, list(t, open(t, e.fresh())))
}

func TestIncompleteConfigurations(t *testing.T) {
	idle, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	require.NoError(t, err)
	defer func() { _ = idle.Close() }()
	_, err = metaetcd.New(t.Context(), metaetcd.Config{Members: []metaetcd.Member{{Name: "m", Client: idle}}})
	require.ErrorContains(t, err, "metaetcd: Config.Coordinator")
	_, err = metaetcd.New(t.Context(), metaetcd.Config{Coordinator: idle, Members: []metaetcd.Member{{Name: "m"}}})
	require.ErrorContains(t, err, `metaetcd: member "m"`)
	requireNoneLeft(t)
}
