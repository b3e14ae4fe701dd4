package wire_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/wire"
)

func TestNamedErrors(t *testing.T) {
	require.NoError(t, wire.Name("a", nil))
	err := wire.Name("a", rpctypes.ErrGRPCNoSpace)
	var e *wire.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "a", e.Member)
	require.EqualError(t, err, "metaetcd: member a: etcdserver: mvcc: database space exceeded")
	require.ErrorIs(t, err, rpctypes.ErrGRPCNoSpace, "as on the wire")
	require.ErrorIs(t, err, rpctypes.ErrNoSpace, "as clientv3 has it")
	require.NotErrorIs(t, err, rpctypes.ErrTooManyOps)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.Equal(t, rpctypes.ErrNoSpace, rpctypes.Error(err), "clientv3 takes it for etcd's own")
	require.Equal(t, err, wire.Name("b", err), "the first name stays")
	require.Equal(t, codes.ResourceExhausted, status.Code(fmt.Errorf("more: %w", err)))

	err = wire.Name("", rpctypes.ErrGRPCPermissionDenied)
	require.ErrorContains(t, err, "metaetcd: coordinator: etcdserver: permission denied (the user")
	require.ErrorContains(t, err, "readwrite on all keys")

	own := errors.New("odd")
	err = wire.Name("a", own)
	require.ErrorIs(t, err, own)
	require.EqualError(t, err, "metaetcd: member a: odd")
	require.False(t, errors.As(err, &e), "no answer of a cluster")
	require.ErrorIs(t, wire.Name("a", context.Canceled), context.Canceled)
}
