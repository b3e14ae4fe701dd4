package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/lifetime"
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
		ErrLostMember, ErrNotEmpty, ErrSlots, ErrSharding, ErrWrongCoordinator, ErrForeignCoordinator, ErrVersion, ErrTopologyFormat,
	}
	for i, kind := range kinds {
		err := error(&TopologyError{Kind: kind, Member: "m"})
		for j, other := range kinds {
			require.Equal(t, i == j, errors.Is(err, other), "%v, %v", kind, other)
		}
	}
}
