package wire

import (
	"context"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/hedge"
)

// KV is the KV service of the cluster that cli is connected to: requests and errors as they are on the wire. Reads are
// retried as clientv3 does, and one that is late is sent again, beside itself, if the cluster has several servers: clientv3 picks another
// one. What does not fit into one answer is read in pieces. Transactions that write are sent once. Batches are bounded by the server's limit, not by the client's default of 2 MiB.
func KV(cli *clientv3.Client) pb.KVClient { return newKV(cli) }

func newKV(cli *clientv3.Client) *kv {
	return &kv{KVClient: clientv3.RetryKVClient(cli), cli: cli, opts: slices.Clip(append(slices.Clone(unbounded), awake(cli)))}
}

type kv struct {
	pb.KVClient
	cli           *clientv3.Client
	opts          []grpc.CallOption
	points, lists hedge.Pace // of reads of single keys, and of all others
	servers       *Servers   // nil: transactions that write are waited for
}

var unbounded = []grpc.CallOption{grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)}

func (k *kv) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	resp, err := k.rangeWhole(ctx, in, opts...)
	if unfit(err) && len(in.RangeEnd) > 0 && !in.KeysOnly && !in.CountOnly {
		return unlessOvertaken(in.Revision > 0, func() (*pb.RangeResponse, error) { return k.rangeInPieces(ctx, in) })
	}
	return resp, err
}

func (k *kv) rangeWhole(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	opts = append(slices.Clip(opts), k.opts...)
	pace := &k.points
	if len(in.RangeEnd) > 0 {
		pace = &k.lists
	}
	return read(ctx, k.cli, pace, in, func(ctx context.Context, in *pb.RangeRequest) (*pb.RangeResponse, error) {
		return k.KVClient.Range(ctx, in, slices.Clone(opts)...)
	})
}

func (k *kv) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	opts = append(slices.Clip(opts), k.opts...)
	if !writes(in) {
		resp, err := read(ctx, k.cli, &k.lists, in, func(ctx context.Context, in *pb.TxnRequest) (*pb.TxnResponse, error) {
			return k.KVClient.Txn(ctx, in, slices.Clone(opts)...)
		})
		if unfit(err) && divisible(in) && (len(in.Success) > 1 || len(in.Success[0].GetRequestRange().RangeEnd) > 0) {
			named := !slices.ContainsFunc(in.Success, func(op *pb.RequestOp) bool { return op.GetRequestRange().Revision == 0 })
			return unlessOvertaken(named, func() (*pb.TxnResponse, error) { return k.txnInPieces(ctx, in) })
		}
		return resp, err
	}
	send := func(ctx context.Context, kv pb.KVClient) (*pb.TxnResponse, error) {
		return Once(ctx, func(ctx context.Context, once ...grpc.CallOption) (*pb.TxnResponse, error) {
			return kv.Txn(ctx, in, append(opts, once...)...)
		})
	}
	if k.servers == nil {
		return send(ctx, k.KVClient)
	}
	return write(ctx, k.servers, k.KVClient, pb.NewKVClient, send)
}

// present returns when the cluster has answered a linearizable read.
func (k *kv) present(ctx context.Context) error {
	_, err := k.Range(ctx, presence())
	return err
}

// read sends a read, and sends it again while it is late. It keeps nothing of the request.
func read[Req proto.Message, Resp any](
	ctx context.Context, cli *clientv3.Client, pace *hedge.Pace, in Req, send func(ctx context.Context, in Req) (Resp, error),
) (Resp, error) {
	if len(cli.Endpoints()) < 2 {
		return send(ctx, in)
	}
	in = proto.CloneOf(in) // attempts may outlive the call
	resp, err := hedge.Request[Resp]{Pace: pace, Passing: Passing, Send: func(ctx context.Context) (Resp, error) { return send(ctx, in) }}.Do(ctx)
	if err != nil && err == ctx.Err() { //nolint:errorlint // as gRPC has it
		err = status.FromContextError(err).Err()
	}
	return resp, err
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
