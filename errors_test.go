package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// An unknown outcome is told as such, also when it is unknown because the client was closed: ErrClosed would deny it.
func TestUnknownOutcomeStaysUnknown(t *testing.T) {
	e := &engine.Engine{Life: lifetime.New(t.Context())}
	e.Life.End(lifetime.ErrClosed)
	for _, cause := range []error{context.Canceled, status.Error(codes.Unavailable, "gone"), errors.New("anything"), ErrClosed} {
		err := grpcError(e.Over(t.Context(), fmt.Errorf("%w: %w", ErrUnknownOutcome, cause)))
		require.ErrorIs(t, err, ErrUnknownOutcome)
		require.Equal(t, codes.Unknown, status.Code(err))
		require.ErrorIs(t, grpcError(e.Over(t.Context(), context.Canceled)), ErrClosed)
	}
}

// Every kind of TopologyError can be told from outside.
func TestKinds(t *testing.T) {
	kinds := []error{
		ErrConfig, ErrSameCluster, ErrMissingMember, ErrUnknownMember, ErrRenamedMember, ErrSwappedMember, ErrForeignMember,
		ErrLostMember, ErrNotEmpty, ErrSlots, ErrSharding, ErrWrongCoordinator, ErrForeignCoordinator, ErrVersion, ErrMemberNumbers, ErrTopologyFormat,
	}
	for i, kind := range kinds {
		err := error(&TopologyError{Kind: kind, Member: "m"})
		for j, other := range kinds {
			require.Equal(t, i == j, errors.Is(err, other), "%v, %v", kind, other)
		}
	}
}

// What the rooms below return is found in the types that this package declares, however it is wrapped; nothing else is.
func TestErrorsOfTheRoomsArePublic(t *testing.T) {
	below := []error{
		&wire.Error{Member: "ash", Err: rpctypes.ErrGRPCNoSpace},
		&member.ForeignKeyError{Member: "birch", Key: []byte("k")},
		&topology.Error{Kind: topology.ErrLostMember, Member: "cedar", Want: "w", Got: "g"},
		&clock.WrongCoordinatorError{Want: 1, Got: 2},
		&clock.ForeignCoordinatorError{Key: []byte("k"), Cluster: 3},
	}
	found := func(err error) []error {
		as := make([]error, len(below))
		if e, ok := errors.AsType[*MemberError](err); ok {
			as[0] = e
		}
		if e, ok := errors.AsType[*ForeignKeyError](err); ok {
			as[1] = e
		}
		if e, ok := errors.AsType[*TopologyError](err); ok {
			as[2] = e
		}
		if e, ok := errors.AsType[*WrongCoordinatorError](err); ok {
			as[3] = e
		}
		if e, ok := errors.AsType[*ForeignCoordinatorError](err); ok {
			as[4] = e
		}
		return as
	}
	want := []error{
		&MemberError{Member: "ash", Err: rpctypes.ErrGRPCNoSpace},
		&ForeignKeyError{Member: "birch", Key: []byte("k")},
		&TopologyError{Kind: ErrLostMember, Member: "cedar", Want: "w", Got: "g"},
		&WrongCoordinatorError{Want: 1, Got: 2},
		&ForeignCoordinatorError{Key: []byte("k"), Cluster: 3},
	}
	for i, err := range below {
		for _, wrapped := range []error{err, fmt.Errorf("more: %w", err), errors.Join(errors.New("another"), err)} {
			for j, as := range found(public(wrapped)) {
				if i == j {
					require.Equal(t, want[i], as)
					require.EqualError(t, as, err.Error())
				} else {
					require.NoError(t, as)
				}
			}
		}
	}
	require.NoError(t, public(nil))
	require.ErrorIs(t, public(below[0]), rpctypes.ErrNoSpace, "etcd's own error, as clientv3 has it")
	require.Equal(t, codes.ResourceExhausted, status.Code(named(true, below[0])))
	var own *MemberError
	require.ErrorAs(t, named(true, fmt.Errorf("more: %w", below[0])), &own)
	require.Equal(t, below[0], named(false, below[0]), "who is written for etcd compares it with ==")
}
