package backoff_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/backoff"
)

func TestOutage(t *testing.T) {
	var o backoff.Outage
	require.False(t, o.Ends())
	for range 2 {
		require.True(t, o.Begins())
		require.False(t, o.Begins())
		require.True(t, o.Ends())
		require.False(t, o.Ends())
	}
}

func TestOutages(t *testing.T) {
	var o backoff.Outages[string]
	require.False(t, o.Ends("a"))
	for range 2 {
		require.True(t, o.Begins("a"))
		require.False(t, o.Begins("a"))
		require.False(t, o.Begins("b"), "it goes on")
		require.False(t, o.Ends("a"))
		require.False(t, o.Ends("c"))
		require.False(t, o.Begins("a"), "b has never ended")
		require.False(t, o.Ends("b"))
		require.True(t, o.Ends("a"))
		require.False(t, o.Ends("a"))
	}
}

// TestLast: what the end of a context cut off says less than what failed before.
func TestLast(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	refused, late := errors.New("refused"), status.Error(codes.DeadlineExceeded, "late")
	require.Equal(t, late, backoff.Last(ctx, refused, late), "the attempt's own deadline")
	cancel()
	for _, cut := range []error{late, status.Error(codes.Canceled, "cut"), context.Canceled, context.DeadlineExceeded} {
		require.Equal(t, refused, backoff.Last(ctx, refused, cut))
		require.Equal(t, cut, backoff.Last(ctx, nil, cut), "nothing else is known")
	}
	other := status.Error(codes.Unavailable, "away")
	require.Equal(t, other, backoff.Last(ctx, refused, other))
}
