package etcdfake

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Interceptor stands between a client and the server. It may delay or drop the request, which do carries out, and
// replace the answer. It runs in the caller's goroutine.
type Interceptor func(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error)

// Client returns a client of the server. The interceptor may be nil.
func (s *Server) Client(via Interceptor) pb.KVClient {
	return &client{s: s, via: via}
}

type client struct {
	s   *Server
	via Interceptor
}

func (c *client) call(ctx context.Context, req proto.Message) (proto.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	do := func() (proto.Message, error) { return c.s.handle(req) }
	if c.via == nil {
		return do()
	}
	resp, err := c.via(ctx, req, do)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = status.FromContextError(err).Err()
	}
	return resp, err
}

// answer gives a response its type back; the zero response goes with an error.
func answer[T proto.Message](resp proto.Message, err error) (t T, _ error) {
	if err != nil {
		return t, err
	}
	return resp.(T), nil
}

func (c *client) Range(ctx context.Context, req *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return answer[*pb.RangeResponse](c.call(ctx, req))
}

func (c *client) Put(ctx context.Context, req *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	return answer[*pb.PutResponse](c.call(ctx, req))
}

func (c *client) DeleteRange(ctx context.Context, req *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return answer[*pb.DeleteRangeResponse](c.call(ctx, req))
}

func (c *client) Txn(ctx context.Context, req *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return answer[*pb.TxnResponse](c.call(ctx, req))
}

func (c *client) Compact(ctx context.Context, req *pb.CompactionRequest, _ ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return answer[*pb.CompactionResponse](c.call(ctx, req))
}

func (c *client) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return nil, status.Error(codes.Unimplemented, "etcdfake: no RangeStream")
}

// ErrLost is what a client sees of a lost request or reply: the outcome is unknown.
var ErrLost = status.Error(codes.Unavailable, "etcdfake: connection lost")

// Faults describes a bad network.
type Faults struct {
	MaxDelay    time.Duration // of the request, and again of the reply
	LoseRequest float64       // probability
	LoseReply   float64       // probability
}

// Interceptor returns an interceptor that behaves so.
func (f Faults) Interceptor() Interceptor {
	return func(ctx context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if err := f.delay(ctx); err != nil {
			return nil, err
		}
		if rand.Float64() < f.LoseRequest {
			return nil, ErrLost
		}
		resp, err := do()
		if err := f.delay(ctx); err != nil {
			return nil, err
		}
		if rand.Float64() < f.LoseReply {
			return nil, ErrLost
		}
		return resp, err
	}
}

func (f Faults) delay(ctx context.Context) error {
	if f.MaxDelay <= 0 {
		return nil
	}
	timer := time.NewTimer(rand.N(f.MaxDelay))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Writes says whether a request can write: transactions that only read cannot.
func Writes(req proto.Message) bool {
	switch r := req.(type) {
	case *pb.RangeRequest, *pb.CompactionRequest:
		return false
	case *pb.TxnRequest:
		return anyWrites(r.Success) || anyWrites(r.Failure)
	}
	return true
}

func anyWrites(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil && Writes(t) || t == nil && op.GetRequestRange() == nil {
			return true
		}
	}
	return false
}
