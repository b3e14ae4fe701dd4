// Package topology creates the records that say what a meta cluster consists of, and checks them whenever it is opened.
//
// Every member records the whole topology: its own name, all names and numbers, the member that keeps `compacted`, the slots, the
// sharding policy, the meta cluster's id and the coordinator's. Creation goes member by member, in the order of names. On each it writes the
// other reserved records first and the topology last, all of them create-only and guarded by "no topology yet".
//
// Invariants:
//
//   - Everything is checked before anything is written.
//   - A member with a topology record has all its records. So a creation that was interrupted, or is done by several
//     processes at once, completes: whoever comes next does what is missing.
//   - There is one cluster id: it comes to be with the topology record of the first member, and the other members get
//     theirs after that.
//   - The clock's first epoch begins after the last topology record. So a member without one, when there is a clock or
//     another member knows an epoch, is not new: it has lost its data.
package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// DefaultSlots is the number of slots of a meta cluster that asks for none.
const DefaultSlots = 4096

// Spec is what a meta cluster is created with, and must be opened with ever after.
type Spec struct {
	Slots  int // 0: DefaultSlots
	Policy ring.Policy

	MaxTxnOps int // the members' max-txn-ops, which may change; 0: etcd's default

	CoordinatorVersion Version // nil: any is right
}

// Member is a member as configured.
type Member struct {
	Name string
	KV   pb.KVClient

	Version Version // nil: any is right
}

// Info is what a meta cluster turned out to be.
type Info struct {
	ClusterID     uint64   // of the meta cluster
	CoordinatorID uint64   // the coordinator's etcd cluster id
	Names         []string // of the members, sorted
	Numbers       []int    // of the members, in the order of Names
	Compacted     int      // index of the member whose record `compacted` counts
	Slots         int
	Policy        ring.Policy
	Fresh         bool // this call created some of the records
}

// Open creates the records of a new meta cluster, or checks those of an existing one. All clusters must answer: Open
// asks them again until ctx ends. A configuration that does not fit is an *Error, at once.
func Open(ctx context.Context, coordinator pb.KVClient, members []Member, spec Spec) (Info, error) {
	o, err := newOpening(coordinator, members, spec)
	if err != nil {
		return Info{}, err
	}
	var last error
	for retry := (backoff.Backoff{}); ; {
		again, err := o.attempt(ctx)
		switch {
		case err == nil && !again:
			return o.info(), nil
		case err != nil && !transient(err):
			return Info{}, err
		}
		if err != nil {
			last = backoff.Last(ctx, last, err)
		}
		if !retry.Wait(ctx) {
			if last == nil {
				return Info{}, fmt.Errorf("metaetcd: creating the topology: %w", ctx.Err())
			}
			return Info{}, fmt.Errorf("metaetcd: opening the topology: %w (last error: %w)", ctx.Err(), last)
		}
	}
}

// opening is one call of Open.
type opening struct {
	coordinator pb.KVClient
	version     Version  // of the coordinator
	members     []Member // sorted by name
	names       []string
	ring        *ring.Ring
	chunk       int // records that one transaction creates

	want    record.TopologyRecord // of every member, but for its own name; the ids are found out
	fresh   bool
	suspect error // what the last look had against the configuration; nil: nothing
}

func newOpening(coordinator pb.KVClient, members []Member, spec Spec) (*opening, error) {
	if spec.Slots == 0 {
		spec.Slots = DefaultSlots
	}
	o := &opening{coordinator: coordinator, version: spec.CoordinatorVersion, members: slices.Clone(members), chunk: maxChunk}
	if spec.MaxTxnOps > 0 {
		o.chunk = max(min(maxChunk, spec.MaxTxnOps-1), 1)
	}
	slices.SortStableFunc(o.members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range o.members {
		o.names = append(o.names, m.Name)
	}
	r, err := ring.New(o.names, spec.Slots, spec.Policy)
	if err != nil {
		return nil, &Error{Kind: ErrConfig, Got: strings.TrimPrefix(err.Error(), "metaetcd: ")}
	}
	o.ring = r
	o.want = record.TopologyRecord{
		Slots: spec.Slots, Segments: r.Policy().Segments, Separator: r.Policy().Separator,
	}
	return o, nil
}

// attempt looks at all clusters, checks what it saw, and creates what is missing. With again, another process was
// faster, and things are different now.
func (o *opening) attempt(ctx context.Context) (again bool, err error) {
	v, err := o.look(ctx)
	if err != nil {
		return false, err
	}
	if err := o.check(v); err != nil {
		// Members are looked at one by one, while another process may be creating them: one that looks new beside one
		// that has begun to work may have been completed in between. A second look, after all of the first, knows.
		again, o.suspect = o.suspect == nil, err
		if again {
			return true, nil
		}
		return false, err
	}
	o.suspect = nil
	if err := o.lookForStrays(ctx, v); err != nil {
		return false, err
	}
	return o.create(ctx, v)
}

// strayKeys is how many keys of each member are looked at.
const strayKeys = 1000

// lookForStrays refuses members that somebody else has written to, as far as their first keys show it.
func (o *opening) lookForStrays(ctx context.Context, v *view) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range v.members {
		if m.topo == nil {
			continue
		}
		g.Go(func() error {
			owned := func(key []byte) bool { return o.ring.MemberOf(key) == i }
			stray, _, err := Stray(ctx, o.members[i].KV, owned, []byte(record.FirstUserKey), strayKeys)
			if stray != nil {
				return o.mismatch(ErrNotEmpty, i, "", fmt.Sprintf("the key %q: delete it there, and let nobody but metaetcd write to a member", stray))
			}
			return wire.Name(o.names[i], err)
		})
	}
	return g.Wait()
}

func (o *opening) info() Info {
	in := Info{
		ClusterID: o.want.ClusterID, CoordinatorID: o.want.CoordinatorID,
		Names: o.names, Numbers: make([]int, len(o.names)), Slots: o.want.Slots, Policy: o.ring.Policy(), Fresh: o.fresh,
	}
	for _, m := range o.want.Members {
		i := slices.Index(o.names, m.Name)
		in.Numbers[i] = m.Number
		if m.Number == o.want.Compacted {
			in.Compacted = i
		}
	}
	return in
}

// transient says whether a request that failed may succeed when it is sent again.
func transient(err error) bool {
	if _, verdict := errors.AsType[*Error](err); verdict || errors.Is(err, record.ErrMalformed) {
		return false
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return false
	}
	return true
}
