// Package bridge calls etcd's gRPC services inside the process: it turns the servers of the generated code into
// clients of the generated code, so that clientv3.NewKVFromKVClient, NewWatchFromWatchClient and
// NewLeaseFromLeaseClient work on services that never see a network.
//
// A caller cannot tell the bridge from a connection, with these exceptions:
//
//   - Messages are passed by pointer. Neither side may change a message after it was sent; a receiver owns what it
//     got. Two receivers share no message unless the server hands out the same one twice.
//   - The values of the caller's context (trace spans, for example) reach the server. Its metadata do not leak: what
//     was outgoing becomes incoming, and nothing is outgoing any more.
//   - A unary call runs on the caller's goroutine and ends when the server does; servers honour their context.
//   - An error of the server keeps its cause: besides being the gRPC status error that a connection would carry, it
//     unwraps to what the server returned. (Not so io.EOF and the errors of contexts: see toStatus.)
//
// A stream costs one goroutine, the server's handler. It ends when the handler returns, and the handler's context ends
// with the caller's, so nothing is left behind by a handler that honours its context.
package bridge

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// KVClient returns a client that calls s. It is safe for concurrent use if s is.
func KVClient(s pb.KVServer) pb.KVClient { return kvClient{s, nil} }

// WatchClient returns a client that calls s. It is safe for concurrent use if s is.
func WatchClient(s pb.WatchServer) pb.WatchClient { return watchClient{s, nil} }

// LeaseClient returns a client that calls s. It is safe for concurrent use if s is.
func LeaseClient(s pb.LeaseServer) pb.LeaseClient { return leaseClient{s, nil} }

type kvClient struct {
	s    pb.KVServer
	life *Life
}

func (c kvClient) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	return invoke(ctx, c.life, pb.KV_Range_FullMethodName, c.s, pb.KVServer.Range, in, opts)
}

func (c kvClient) Put(ctx context.Context, in *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return invoke(ctx, c.life, pb.KV_Put_FullMethodName, c.s, pb.KVServer.Put, in, opts)
}

func (c kvClient) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return invoke(ctx, c.life, pb.KV_DeleteRange_FullMethodName, c.s, pb.KVServer.DeleteRange, in, opts)
}

func (c kvClient) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return invoke(ctx, c.life, pb.KV_Txn_FullMethodName, c.s, pb.KVServer.Txn, in, opts)
}

func (c kvClient) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return invoke(ctx, c.life, pb.KV_Compact_FullMethodName, c.s, pb.KVServer.Compact, in, opts)
}

func (c kvClient) RangeStream(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	cs, err := open(ctx, c.life, pb.KV_RangeStream_FullMethodName,
		func(ss serverEnd[pb.RangeRequest, pb.RangeStreamResponse]) error { return c.s.RangeStream(in, ss) })
	if err != nil {
		return nil, err
	}
	return cs, cs.CloseSend()
}

type watchClient struct {
	s    pb.WatchServer
	life *Life
}

func (c watchClient) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	cs, err := open(ctx, c.life, pb.Watch_Watch_FullMethodName,
		func(ss serverEnd[pb.WatchRequest, pb.WatchResponse]) error { return c.s.Watch(ss) })
	if err != nil {
		return nil, err
	}
	return cs, nil
}

type leaseClient struct {
	s    pb.LeaseServer
	life *Life
}

func (c leaseClient) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return invoke(ctx, c.life, pb.Lease_LeaseGrant_FullMethodName, c.s, pb.LeaseServer.LeaseGrant, in, opts)
}

func (c leaseClient) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return invoke(ctx, c.life, pb.Lease_LeaseRevoke_FullMethodName, c.s, pb.LeaseServer.LeaseRevoke, in, opts)
}

func (c leaseClient) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	return invoke(ctx, c.life, pb.Lease_LeaseTimeToLive_FullMethodName, c.s, pb.LeaseServer.LeaseTimeToLive, in, opts)
}

func (c leaseClient) LeaseLeases(ctx context.Context, in *pb.LeaseLeasesRequest, opts ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
	return invoke(ctx, c.life, pb.Lease_LeaseLeases_FullMethodName, c.s, pb.LeaseServer.LeaseLeases, in, opts)
}

func (c leaseClient) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	cs, err := open(ctx, c.life, pb.Lease_LeaseKeepAlive_FullMethodName,
		func(ss serverEnd[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
			return c.s.LeaseKeepAlive(ss)
		})
	if err != nil {
		return nil, err
	}
	return cs, nil
}
