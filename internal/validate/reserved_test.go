package validate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestErrReservedKey(t *testing.T) {
	err := Put(&pb.PutRequest{Key: []byte{0}})
	require.ErrorIs(t, err, ErrReservedKey)
	require.ErrorIs(t, fmt.Errorf("wrapped: %w", err), ErrReservedKey)
	require.EqualError(t, err, "metaetcd: key is reserved: names that begin with byte 0x00 are metaetcd's own")

	var typed Error
	require.ErrorAs(t, err, &typed)
	require.Equal(t, codes.InvalidArgument, typed.Code())
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.Equal(t, err.Error(), status.Convert(err).Message())

	require.Equal(t, ErrReservedKey, clientv3.ContextError(context.Background(), err), "clientv3 passes it on untouched")
}

func TestFromStatus(t *testing.T) {
	sent := status.FromProto(status.Convert(ErrReservedKey).Proto()).Err() // what arrives over a wire
	require.NotErrorIs(t, sent, ErrReservedKey)
	require.ErrorIs(t, FromStatus(sent), ErrReservedKey)
	require.ErrorIs(t, FromStatus(fmt.Errorf("wrapped: %w", sent)), ErrReservedKey)
	require.Equal(t, ErrReservedKey, FromStatus(ErrReservedKey))

	for _, other := range []error{
		nil,
		errors.New(ErrReservedKey.Error()),
		status.Error(codes.Internal, ErrReservedKey.Error()),
		status.Error(codes.InvalidArgument, "else"),
		rpctypes.ErrGRPCEmptyKey,
	} {
		require.Equal(t, other, FromStatus(other))
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		name     string
		key, end string
		k, e     string
		empty    bool
	}{
		{name: "single key", key: "a", k: "a"},
		{name: "lowest user key", key: "\x01", k: "\x01"},
		{name: "single reserved key", key: "\x00", empty: true},
		{name: "no key", empty: true},

		{name: "user range", key: "a", end: "b", k: "a", e: "b"},
		{name: "empty user range", key: "b", end: "b", empty: true},
		{name: "inverted user range", key: "b", end: "a", empty: true},
		{name: "user range that ends in reserved names", key: "a", end: "\x00b", empty: true},

		{name: "everything", key: "\x00", end: "\x00", k: "\x01", e: "\x00"},
		{name: "from a reserved key", key: "\x00slot/", end: "\x00", k: "\x01", e: "\x00"},
		{name: "from a user key", key: "a", end: "\x00", k: "a", e: "\x00"},
		{name: "from no key", end: "\x00", k: "\x01", e: "\x00"},

		{name: "from reserved names into user keys", key: "\x00", end: "b", k: "\x01", e: "b"},
		{name: "all reserved names", key: "\x00", end: "\x01", empty: true},
		{name: "reserved names only", key: "\x00mark/", end: "\x00mark0", empty: true},
		{name: "reserved names and the lowest user key", key: "\x00\xff", end: "\x01\x00", k: "\x01", e: "\x01\x00"},
		{name: "no key, with an end", end: "b", k: "\x01", e: "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, e, empty := Clip([]byte(tt.key), []byte(tt.end))
			require.Equal(t, tt.empty, empty)
			if !empty {
				require.Equal(t, tt.k, string(k))
				require.Equal(t, tt.e, string(e))
			}
		})
	}
}

func TestClipKeepsUserKeysAndDropsTheRest(t *testing.T) {
	name := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xff}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		key, end := name.Draw(t, "key"), name.Draw(t, "end")
		before := [2]string{string(key), string(end)}
		probe := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xff}), 1, 4).Draw(t, "probe")

		k, e, empty := Clip(key, end)
		got := !empty && contains(k, e, probe)
		require.Equal(t, contains(key, end, probe) && probe[0] != 0, got)
		require.Equal(t, before, [2]string{string(key), string(end)}, "arguments stay as they are")
	})
}

// contains is etcd's convention of ranges, spelled out.
func contains(key, end, k []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}
