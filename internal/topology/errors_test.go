package topology_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/topology"
)

// Each case spoils a meta cluster of the members a, b and c, or its configuration. Opening it says what is wrong and
// writes nothing.
func TestErrors(t *testing.T) {
	type setup struct {
		*world
		t    *testing.T
		ms   []topology.Member // as configured: a, b, c
		spec topology.Spec
		info topology.Info // of the meta cluster
	}
	other := func(s *setup) *world { // another meta cluster with the same coordinator cluster id
		w := newWorld("a", "b", "c", "x")
		_, err := w.open(s.t.Context(), w.members(nil, "a", "b", "c"), s.spec)
		require.NoError(s.t, err)
		return w
	}
	for name, tc := range map[string]struct {
		created bool // before the spoiling
		spoil   func(s *setup)
		kind    error
		member  string
		text    []string
	}{
		"no members": {
			spoil: func(s *setup) { s.ms = nil }, kind: topology.ErrConfig, text: []string{"no members"},
		},
		"no name": {
			spoil: func(s *setup) { s.ms[1].Name = "" }, kind: topology.ErrConfig, text: []string{"without a name"},
		},
		"one name for two": {
			spoil: func(s *setup) { s.ms[1].Name = "a" }, kind: topology.ErrConfig, text: []string{`"a"`},
		},
		"too many slots": {
			spoil: func(s *setup) { s.spec.Slots = ring.MaxSlots + 1 }, kind: topology.ErrConfig, text: []string{"65537 slots"},
		},
		"one etcd for two members": {
			spoil: func(s *setup) { s.ms[1].KV = s.ms[0].KV },
			kind:  topology.ErrSameCluster, member: "b", text: []string{"as member a", "61", "--initial-cluster-token"},
		},
		"the coordinator as a member": {
			spoil: func(s *setup) { s.ms[2].KV = s.coordinator.Client(nil) },
			kind:  topology.ErrSameCluster, member: "c", text: []string{"as the coordinator", "c0"},
		},
		"a new member that is in use": {
			spoil: func(s *setup) { put(s.t, s.etcds["b"], "theirs", nil) },
			kind:  topology.ErrNotEmpty, member: "b", text: []string{`"theirs"`},
		},
		"a new member with unknown reserved keys": {
			spoil: func(s *setup) { put(s.t, s.etcds["b"], "\x00", nil) },
			kind:  topology.ErrNotEmpty, member: "b", text: []string{`"\x00"`},
		},
		"a new member with records that creation does not leave": {
			spoil: func(s *setup) { put(s.t, s.etcds["b"], record.KeyFence, record.Pair(3, 7)) },
			kind:  topology.ErrNotEmpty, member: "b", text: []string{`"\x00fence"`},
		},
		"a new coordinator that is in use": {
			spoil: func(s *setup) { put(s.t, s.coordinator, "theirs", nil) },
			kind:  topology.ErrNotEmpty, text: []string{"the coordinator", `"theirs"`},
		},
		"a coordinator that is in use": {
			created: true,
			spoil:   func(s *setup) { put(s.t, s.coordinator, "\xff", nil) },
			kind:    topology.ErrNotEmpty, text: []string{"the coordinator", `"\xff"`},
		},
		"new members with the coordinator of others": {
			created: true,
			spoil: func(s *setup) {
				for _, e := range s.etcds {
					e.Wipe()
				}
			},
			kind: topology.ErrForeignCoordinator, text: []string{"want none"},
		},
		"members with the coordinator of others": {
			created: true,
			spoil: func(s *setup) {
				w := other(s)
				info, err := w.open(s.t.Context(), w.members(nil, "a", "b", "c"), s.spec)
				require.NoError(s.t, err)
				w.startClock(s.t, info, w.members(nil, "a", "b", "c"))
				s.coordinator = w.coordinator
			},
			kind: topology.ErrForeignCoordinator,
		},
		"another etcd as the coordinator": {
			created: true,
			spoil:   func(s *setup) { s.coordinator = etcdfake.New(0xbad) },
			kind:    topology.ErrWrongCoordinator, member: "a", text: []string{"want c0", "got bad"},
		},
		"a member that is too old": {
			spoil: func(s *setup) { s.ms[1].Version = version("3.4.30") },
			kind:  topology.ErrVersion, member: "b", text: []string{"want 3.5 or later", "got 3.4.30"},
		},
		"a coordinator that is too old": {
			created: true,
			spoil:   func(s *setup) { s.spec.CoordinatorVersion = version("2.3.8") },
			kind:    topology.ErrVersion, text: []string{"want 3.5 or later", "got 2.3.8"},
		},
		"a member is missing": {
			created: true,
			spoil:   func(s *setup) { s.ms = s.ms[:2] },
			kind:    topology.ErrMissingMember, member: "c", text: []string{"want [a b c]", "got [a b]"},
		},
		"a new member too many": {
			created: true,
			spoil: func(s *setup) {
				s.ms = append(s.ms, topology.Member{Name: "d", KV: etcdfake.New(4).Client(nil)})
			},
			kind: topology.ErrUnknownMember, member: "d", text: []string{"want [a b c]", "got [a b c d]"},
		},
		"a member of others too many": {
			created: true,
			spoil: func(s *setup) {
				w := newWorld("x")
				_, err := w.open(s.t.Context(), w.members(nil, "x"), s.spec)
				require.NoError(s.t, err)
				s.ms = append(s.ms, w.members(nil, "x")...)
			},
			kind: topology.ErrForeignMember, member: "x",
		},
		"a member of others in the place of the first": {
			created: true,
			spoil:   func(s *setup) { s.ms[0].KV = other(s).etcds["a"].Client(nil) },
			kind:    topology.ErrForeignMember, member: "a",
		},
		"swapped members": {
			created: true,
			spoil:   func(s *setup) { s.ms[0].KV, s.ms[1].KV = s.ms[1].KV, s.ms[0].KV },
			kind:    topology.ErrSwappedMember, member: "a", text: []string{"want a", "got b"},
		},
		"a renamed member": {
			created: true,
			spoil:   func(s *setup) { s.ms[2].Name = "z" },
			kind:    topology.ErrRenamedMember, member: "z", text: []string{"want c", "got z"},
		},
		"a member that lost its data": {
			created: true,
			spoil:   func(s *setup) { s.etcds["b"].Wipe() },
			kind:    topology.ErrLostMember, member: "b",
		},
		"a member and the coordinator that lost their data": {
			created: true,
			spoil:   func(s *setup) { s.etcds["b"].Wipe(); s.coordinator.Wipe() },
			kind:    topology.ErrLostMember, member: "b",
		},
		"a member replaced by one in use": {
			created: true,
			spoil:   func(s *setup) { s.etcds["b"].Wipe(); put(s.t, s.etcds["b"], "theirs", nil) },
			kind:    topology.ErrNotEmpty, member: "b",
		},
		"other slots": {
			created: true,
			spoil:   func(s *setup) { s.spec.Slots = 301 },
			kind:    topology.ErrSlots, member: "a", text: []string{"want 300", "got 301"},
		},
		"another policy": {
			created: true,
			spoil:   func(s *setup) { s.spec.Policy = ring.Policy{Segments: 2} },
			kind:    topology.ErrPolicy, member: "a", text: []string{"want the whole key", "got the first 2 segments, ended by '/'"},
		},
		"members numbered differently": {
			created: true,
			spoil: func(s *setup) {
				topo := string(s.etcds["b"].Get(record.KeyTopology))
				put(s.t, s.etcds["b"], record.KeyTopology, []byte(strings.Replace(topo, `"number":3`, `"number":4`, 1)))
			},
			kind: topology.ErrNumbers, member: "b", text: []string{"want [{1 a} {2 b} {3 c}]", "got [{1 a} {2 b} {4 c}]"},
		},
		"the compacted revision on two members": {
			created: true,
			spoil: func(s *setup) {
				topo := string(s.etcds["c"].Get(record.KeyTopology))
				put(s.t, s.etcds["c"], record.KeyTopology, []byte(strings.Replace(topo, `"compacted":1`, `"compacted":2`, 1)))
			},
			kind: topology.ErrNumbers, member: "c", text: []string{"compacted revision on 1", "compacted revision on 2"},
		},
		"the format of an older version": {
			created: true,
			spoil: func(s *setup) {
				topo := string(s.etcds["a"].Get(record.KeyTopology))
				put(s.t, s.etcds["a"], record.KeyTopology, []byte(strings.Replace(topo, `"format":2`, `"format":1`, 1)))
			},
			kind: topology.ErrFormat, member: "a", text: []string{"another version of metaetcd", "want 2", "got 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &setup{world: newWorld("a", "b", "c"), t: t, spec: topology.Spec{Slots: 300}}
			s.ms = s.members(nil, "a", "b", "c")
			if tc.created {
				info, err := s.open(t.Context(), s.ms, s.spec)
				require.NoError(t, err)
				s.info = info
				s.startClock(t, info, s.ms)
			}
			tc.spoil(s)
			before := s.revisions()
			_, err := s.open(t.Context(), s.ms, s.spec)
			require.ErrorIs(t, err, tc.kind)
			var e *topology.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, tc.member, e.Member)
			require.True(t, strings.HasPrefix(err.Error(), "metaetcd: "), err.Error())
			for _, text := range tc.text {
				require.ErrorContains(t, err, text)
			}
			require.Equal(t, before, s.revisions(), "something was written")
		})
	}
}

func TestAMalformedTopologyIsRefused(t *testing.T) {
	w := newWorld("a", "b")
	put(t, w.etcds["b"], record.KeyTopology, []byte("theirs"))
	_, err := w.open(t.Context(), w.members(nil, "a", "b"), topology.Spec{})
	require.ErrorIs(t, err, record.ErrMalformed)
	require.ErrorContains(t, err, "member b: ")
	require.EqualValues(t, 1, w.etcds["a"].Revision(), "something was written")
}

func TestAMemberIsNoCoordinator(t *testing.T) {
	w := newWorld("a", "b")
	_, err := w.open(t.Context(), w.members(nil, "a"), topology.Spec{Slots: 10})
	require.NoError(t, err)
	w.coordinator = w.etcds["a"]
	_, err = w.open(t.Context(), w.members(nil, "b"), topology.Spec{Slots: 10})
	require.ErrorIs(t, err, topology.ErrNotEmpty)
	require.EqualValues(t, 1, w.etcds["b"].Revision(), "something was written")
}

func version(v string) topology.Version {
	return func(context.Context) (string, error) { return v, nil }
}

// TestVersions: what is new enough, or does not tell, is taken; who cannot be asked yet is asked again.
func TestVersions(t *testing.T) {
	for _, v := range []string{"3.5.0", "3.5.35", "3.6.0-rc.1", "3.10.1", "4.0.0", "", "unknown"} {
		w := newWorld("a")
		ms, asked := w.members(nil, "a"), 0
		ms[0].Version = func(context.Context) (string, error) {
			if asked++; asked == 1 {
				return "", status.Error(codes.Unavailable, "not yet")
			}
			return v, nil
		}
		_, err := w.open(t.Context(), ms, topology.Spec{CoordinatorVersion: version(v)})
		require.NoError(t, err, v)
		require.Greater(t, asked, 1)
	}
}
