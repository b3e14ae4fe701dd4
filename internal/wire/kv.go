package wire

import (
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// KV is the KV service of the cluster that cli is connected to: requests and errors as they are on the wire. Reads are
// retried as clientv3 does; transactions that write are sent once. Batches are bounded by the server's limit, not by the
// client's default of 2 MiB.
func KV(cli *clientv3.Client) pb.KVClient { return kv{clientv3.RetryKVClient(cli)} }

type kv struct{ pb.KVClient }

var unbounded = []grpc.CallOption{grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)}

func (k kv) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	return k.KVClient.Range(ctx, in, append(opts, unbounded...)...)
}

func (k kv) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	opts = append(opts, unbounded...)
	if !writes(in) {
		return k.KVClient.Txn(ctx, in, opts...)
	}
	return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.TxnResponse, error) {
		return k.KVClient.Txn(ctx, in, append(opts, once...)...)
	})
}

// writes reports whether a transaction may change anything.
func writes(t *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range branch {
			switch r := op.Request.(type) {
			case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
				return true
			case *pb.RequestOp_RequestTxn:
				if writes(r.RequestTxn) {
					return true
				}
			}
		}
	}
	return false
}
