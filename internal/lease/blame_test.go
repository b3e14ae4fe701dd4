package lease

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestLastErrorIsNotTheContexts: what the end of the caller's context cut off says nothing of whom it asked.
func TestLastErrorIsNotTheContexts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	_, err := persist(ctx, func(ctx context.Context) (int, error) {
		if asked++; asked == 1 {
			return 0, status.Error(codes.Unavailable, "connection refused")
		}
		cancel()
		return 0, status.FromContextError(ctx.Err()).Err()
	})
	require.ErrorContains(t, err, "connection refused")
	require.ErrorIs(t, err, context.Canceled)
}
