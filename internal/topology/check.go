package topology

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/metaetcd/metaetcd/internal/record"
)

// check compares what is there with the configuration. On success o.want has the coordinator's id, and the meta
// cluster's if there is one already.
func (o *opening) check(v *view) error {
	o.want.CoordinatorID = v.coordinator.EtcdID
	o.want.ClusterID = prevailingID(v)
	for _, check := range []func(*view) error{
		o.checkDistinct, o.checkFormats, o.checkPlaces, o.checkNames, o.checkNumbers, o.checkRecords, o.checkCoordinator, o.checkEmpty,
	} {
		if err := check(v); err != nil {
			return err
		}
	}
	return nil
}

// prevailingID is the cluster id that most members know; 0: none knows any.
func prevailingID(v *view) (id uint64) {
	votes := make(map[uint64]int)
	for _, m := range v.members {
		if m.topo != nil {
			votes[m.topo.ClusterID]++
		}
	}
	for _, m := range v.members {
		if m.topo != nil && votes[m.topo.ClusterID] > votes[id] {
			id = m.topo.ClusterID
		}
	}
	return id
}

// checkDistinct refuses an etcd cluster that is given twice.
func (o *opening) checkDistinct(v *view) error {
	known := map[uint64]string{v.coordinator.EtcdID: "the coordinator"}
	for i, m := range v.members {
		if other, ok := known[m.etcdID]; ok {
			return o.mismatch(ErrSameCluster, i, "", fmt.Sprintf("%x, as %s", m.etcdID, other))
		}
		known[m.etcdID] = "member " + o.names[i]
	}
	return nil
}

func (o *opening) checkFormats(v *view) error {
	for i, m := range v.members {
		if m.topo != nil && m.topo.Format != record.TopologyFormat {
			return o.mismatch(ErrFormat, i, strconv.Itoa(record.TopologyFormat), strconv.Itoa(m.topo.Format))
		}
	}
	return nil
}

// checkPlaces refuses members of other meta clusters, and clients that lead to another member than they should.
func (o *opening) checkPlaces(v *view) error {
	for i, m := range v.members {
		switch {
		case m.topo == nil:
		case m.topo.ClusterID != o.want.ClusterID:
			return o.mismatch(ErrForeignMember, i, hex(o.want.ClusterID), hex(m.topo.ClusterID))
		case m.topo.Member == o.names[i]:
		case slices.Contains(o.names, m.topo.Member):
			return o.mismatch(ErrSwappedMember, i, o.names[i], m.topo.Member)
		default:
			return o.mismatch(ErrRenamedMember, i, m.topo.Member, o.names[i])
		}
	}
	return nil
}

// checkNames refuses a configuration with other members than the recorded ones.
func (o *opening) checkNames(v *view) error {
	for _, m := range v.members {
		if m.topo == nil {
			continue
		}
		recorded := make([]string, len(m.topo.Members))
		for i, r := range m.topo.Members {
			recorded[i] = r.Name
		}
		for _, name := range recorded {
			if !slices.Contains(o.names, name) {
				return &Error{Kind: ErrMissingMember, Member: name, Want: list(recorded), Got: list(o.names)}
			}
		}
		for i, name := range o.names {
			if !slices.Contains(recorded, name) {
				return o.mismatch(ErrUnknownMember, i, list(recorded), list(o.names))
			}
		}
	}
	return nil
}

// checkNumbers takes over the members' numbers, and the member that keeps `compacted`, which all records have to agree on. Those of a
// new meta cluster are 1 and up, in the order of names, and the first member keeps it.
func (o *opening) checkNumbers(v *view) error {
	o.want.Members, o.want.Compacted = nil, 1
	for i, name := range o.names {
		o.want.Members = append(o.want.Members, record.TopologyMember{Number: i + 1, Name: name})
	}
	first := -1
	for i, m := range v.members {
		switch {
		case m.topo == nil:
		case first < 0:
			first = i
			o.want.Members, o.want.Compacted = m.topo.Members, m.topo.Compacted
		case !slices.Equal(m.topo.Members, o.want.Members) || m.topo.Compacted != o.want.Compacted:
			return o.mismatch(ErrNumbers, i, numbers(o.want), numbers(*m.topo))
		}
	}
	return nil
}

func (o *opening) checkRecords(v *view) error {
	for i, m := range v.members {
		switch {
		case m.topo == nil:
		case m.topo.Slots != o.want.Slots:
			return o.mismatch(ErrSlots, i, strconv.Itoa(m.topo.Slots), strconv.Itoa(o.want.Slots))
		case m.topo.Segments != o.want.Segments || m.topo.Separator != o.want.Separator:
			return o.mismatch(ErrPolicy, i, policy(*m.topo), policy(o.want))
		case m.topo.CoordinatorID != o.want.CoordinatorID:
			return o.mismatch(ErrWrongCoordinator, i, hex(m.topo.CoordinatorID), hex(o.want.CoordinatorID))
		}
	}
	return nil
}

// checkCoordinator refuses a coordinator with the clock of another meta cluster, which any clock is to a new one.
func (o *opening) checkCoordinator(v *view) error {
	if served := v.coordinator.Cluster; served != 0 && served != o.want.ClusterID {
		e := &Error{Kind: ErrForeignCoordinator, Want: "none", Got: hex(served)}
		if o.want.ClusterID != 0 {
			e.Want = hex(o.want.ClusterID)
		}
		return e
	}
	return nil
}

// checkEmpty refuses to create records on an etcd that is in use, or on one that had them before.
func (o *opening) checkEmpty(v *view) error {
	begun := v.coordinator.Cluster != 0 || slices.ContainsFunc(v.members, func(m memberView) bool { return m.epoch > 0 })
	for i, m := range v.members {
		switch {
		case m.topo != nil:
		case m.foreign != nil:
			return o.mismatch(ErrNotEmpty, i, "", fmt.Sprintf("the key %q", m.foreign))
		case begun:
			return o.mismatch(ErrLostMember, i, "", "")
		}
	}
	return nil
}

func (o *opening) mismatch(kind error, member int, want, got string) error {
	return &Error{Kind: kind, Member: o.names[member], Want: want, Got: got}
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }

func numbers(r record.TopologyRecord) string {
	return fmt.Sprintf("%v, with the compacted revision on %d", r.Members, r.Compacted)
}

func policy(r record.TopologyRecord) string {
	if r.Segments == 0 {
		return "the whole key"
	}
	return fmt.Sprintf("the first %d segments, ended by %q", r.Segments, r.Separator)
}
