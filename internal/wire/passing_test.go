package wire

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What is passing is asked again; what is the request's own fault, or the cluster's for good, is told to the caller.
func TestPassing(t *testing.T) {
	for err, want := range map[error]bool{
		status.Error(codes.Unavailable, "gone"):      true,
		status.Error(codes.DeadlineExceeded, "late"): true,
		status.Error(codes.Canceled, "cancelled"):    true,
		context.DeadlineExceeded:                     true,
		rpctypes.ErrGRPCRequestTooManyRequests:       true,
		rpctypes.ErrGRPCNoLeader:                     true,
		rpctypes.ErrGRPCTimeout:                      true,
		context.Canceled:                             false,
		rpctypes.ErrGRPCNoSpace:                      false,
		rpctypes.ErrGRPCCompacted:                    false,
		rpctypes.ErrGRPCPermissionDenied:             false,
		errors.New("anything"):                       false,
		Final{Err: errors.New("it has failed"), Code: codes.FailedPrecondition}: false,
	} {
		require.Equal(t, want, Passing(err), "%v", err)
		require.Equal(t, want, Passing(fmt.Errorf("more: %w", err)), "%v", err)
		require.Equal(t, want, Passing(Name("ash", err)), "%v", err)
	}
	require.False(t, Passing(nil))
}
