package topology_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// TestTheRightClusterIsBlamed: a member does not answer, and the end of the caller's context cuts off a request to the coordinator.
func TestTheRightClusterIsBlamed(t *testing.T) {
	w := newWorld("a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	var looks atomic.Int64
	coordinator := w.coordinator.Client(func(ctx context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if looks.Add(1) == 3 {
			cancel()
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return do()
	})
	ms := w.members(nil, "a", "b")
	ms[1].KV = w.etcds["b"].Client(func(context.Context, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
		return nil, status.Error(codes.Unavailable, "connection refused")
	})
	_, err := topology.Open(ctx, coordinator, ms, topology.Spec{Slots: 8})
	require.ErrorContains(t, err, "member b: ")
	require.ErrorContains(t, err, "connection refused")
	require.ErrorIs(t, err, context.Canceled)
	var named *wire.Error
	require.ErrorAs(t, err, &named)
	require.Equal(t, "b", named.Member)
}

// TestStray finds what somebody else wrote, wherever it lies, and goes round.
func TestStray(t *testing.T) {
	w := newWorld("a")
	kv := w.etcds["a"].Client(nil)
	write := func(key string, value []byte) {
		t.Helper()
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: value})
		require.NoError(t, err)
	}
	for _, k := range []string{"b", "c", "d", "e", "f", "g", "h"} {
		write(k, record.Header{Stamp: 1 << 40, Create: 1}.Value([]byte("v")))
	}
	owned := func(key []byte) bool { return string(key) != "elsewhere" }
	look := func(from string, n int64) (string, string) {
		t.Helper()
		stray, next, err := topology.Stray(t.Context(), kv, owned, []byte(from), n)
		require.NoError(t, err)
		return string(stray), string(next)
	}
	next := record.FirstUserKey
	for _, want := range []string{"d\x00", "g\x00", record.FirstUserKey} {
		var stray string
		stray, next = look(next, 3)
		require.Empty(t, stray)
		require.Equal(t, want, next)
	}
	for _, value := range []string{"", "a", "what somebody wrote", "{}"} {
		for _, key := range []string{"a", "cc", "h"} {
			before, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
			require.NoError(t, err)
			write(key, []byte(value))
			stray, _ := look(record.FirstUserKey, 100)
			require.Equal(t, key, stray, "value %q", value)
			if len(before.Kvs) > 0 {
				write(key, before.Kvs[0].Value)
			} else {
				_, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(key)})
				require.NoError(t, err)
			}
		}
	}
	write("elsewhere", record.Header{Stamp: 5, Create: 5}.Value(nil))
	stray, _ := look(record.FirstUserKey, 100)
	require.Equal(t, "elsewhere", stray)
}
