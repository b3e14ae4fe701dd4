package wire_test

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server counts the transactions that reach it.
type server struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedAuthServer

	addr     string
	arrived  atomic.Int32 // requests that write
	reads    atomic.Int32
	logins   atomic.Int32
	answer   func(ctx context.Context, n int32) error // to the nth; nil: it is applied
	withAuth bool
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{answer: func(context.Context, int32) error { return nil }}
	s.addr = serve(t, func(g *grpc.Server) {
		pb.RegisterKVServer(g, s)
		pb.RegisterLeaseServer(g, s)
		pb.RegisterAuthServer(g, s)
	})
	return s
}

// serve serves what is registered until the test ends, at an address that it returns.
func serve(t *testing.T, register func(g *grpc.Server)) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(lis)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return lis.Addr().String()
}

func (s *server) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if len(r.Success) > 0 && r.Success[0].GetRequestRange() != nil {
		return &pb.TxnResponse{}, s.answer(ctx, s.reads.Add(1))
	}
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 7}}, s.arrive(ctx)
}

func (s *server) LeaseRevoke(ctx context.Context, _ *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return &pb.LeaseRevokeResponse{}, s.arrive(ctx)
}

func (s *server) LeaseGrant(ctx context.Context, _ *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return &pb.LeaseGrantResponse{}, s.arrive(ctx)
}

func (s *server) arrive(ctx context.Context) error {
	if md, _ := metadata.FromIncomingContext(ctx); s.withAuth && len(md.Get(rpctypes.TokenFieldNameGRPC)) == 0 {
		return rpctypes.ErrGRPCUserEmpty
	}
	return s.answer(ctx, s.arrived.Add(1))
}

func (s *server) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	s.logins.Add(1)
	return &pb.AuthenticateResponse{Token: "token"}, nil
}

func (s *server) dial(t *testing.T, cfg clientv3.Config, opts ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	cfg.Endpoints, cfg.Logger = []string{s.addr}, zap.NewNop()
	cfg.DialOptions = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	cli, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

var put = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}}}

func always(err error) func(context.Context, int32) error {
	return func(context.Context, int32) error { return err }
}

// perTry bounds each attempt, as a borrowed client may.
func perTry(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// insistent repeats whatever fails.
func insistent(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	for range 5 {
		if err = invoke(ctx, method, req, reply, cc, opts...); err == nil {
			break
		}
	}
	return err
}

// detached repeats whatever fails, whatever has become of the caller.
func detached(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return insistent(context.WithoutCancel(ctx), method, req, reply, cc, invoke, opts...)
}

// lying answers that something else was wrong.
func lying(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	_ = invoke(ctx, method, req, reply, cc, opts...)
	return status.Error(codes.InvalidArgument, "lying")
}

// retryPolicy is gRPC's own, of a service configuration.
const retryPolicy = `{"methodConfig": [{"name": [{"service": "etcdserverpb.KV"}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED", "INTERNAL"]}}]}`

func TestTransactionsThatWriteAreSentOnce(t *testing.T) {
	canceled := status.Error(codes.Canceled, "a hop has cancelled")
	unavailable := status.Error(codes.Unavailable, "the answer was lost")
	hang := func(ctx context.Context, _ int32) error {
		<-ctx.Done()
		return ctx.Err()
	}
	// once the first has been applied, others are refused for certain: the outcome of the first counts.
	thenRefuse := func(_ context.Context, n int32) error {
		if n == 1 {
			return unavailable
		}
		return rpctypes.ErrGRPCInvalidAuthToken
	}
	for name, c := range map[string]struct {
		answer func(context.Context, int32) error
		via    []grpc.UnaryClientInterceptor
		want   codes.Code
	}{
		"answered":                {always(nil), nil, codes.OK},
		"cancelled":               {always(canceled), nil, codes.Canceled},
		"deadline":                {always(context.DeadlineExceeded), nil, codes.DeadlineExceeded},
		"unavailable":             {always(unavailable), nil, codes.Unavailable},
		"a timeout for each try":  {hang, []grpc.UnaryClientInterceptor{perTry}, codes.DeadlineExceeded},
		"a retry middleware":      {thenRefuse, []grpc.UnaryClientInterceptor{insistent}, codes.Unavailable},
		"both":                    {hang, []grpc.UnaryClientInterceptor{insistent, perTry}, codes.DeadlineExceeded},
		"a detached middleware":   {thenRefuse, []grpc.UnaryClientInterceptor{detached}, codes.Unavailable},
		"a lying middleware":      {always(unavailable), []grpc.UnaryClientInterceptor{lying}, codes.Unavailable},
		"lying about a success":   {always(nil), []grpc.UnaryClientInterceptor{lying}, codes.Unknown},
		"refused, and repeated":   {always(rpctypes.ErrGRPCNoSpace), []grpc.UnaryClientInterceptor{insistent}, codes.ResourceExhausted},
		"nothing that it can use": {always(rpctypes.ErrGRPCTooManyOps), []grpc.UnaryClientInterceptor{insistent}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			s.answer = c.answer
			kv := wire.KV(s.dial(t, clientv3.Config{}, grpc.WithChainUnaryInterceptor(c.via...)))
			_, err := kv.Txn(t.Context(), put)
			require.Equal(t, c.want, status.Code(err), "%v", err)
			require.LessOrEqual(t, s.arrived.Load(), int32(1)) // a timeout may come before the request
		})
	}
}

// gRPC's own retries, too.
func TestRetryPoliciesDoNotRepeatWrites(t *testing.T) {
	s := startServer(t)
	s.answer = always(status.Error(codes.Unavailable, "the answer was lost"))
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(retryPolicy))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	kv := pb.NewKVClient(conn)
	_, err = kv.Txn(t.Context(), put)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.EqualValues(t, 4, s.arrived.Load(), "the policy is none")

	s.arrived.Store(0)
	_, err = wire.Once(t.Context(), func(ctx context.Context, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
		return kv.Txn(ctx, put, opts...)
	})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.EqualValues(t, 1, s.arrived.Load())
}

// A message that was too large may have been the answer: then the request was applied.
func TestMessagesThatDoNotFit(t *testing.T) {
	small := func(limit grpc.CallOption) grpc.UnaryClientInterceptor {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(ctx, method, req, reply, cc, append(opts, limit)...)
		}
	}
	for name, c := range map[string]struct {
		answer  error
		limit   grpc.CallOption
		arrived int32
		want    codes.Code
	}{
		"the answer":                    {nil, grpc.MaxCallRecvMsgSize(1), 1, codes.Unknown},
		"the request":                   {nil, grpc.MaxCallSendMsgSize(1), 0, codes.ResourceExhausted},
		"the request, at the server":    {status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. 1)", proto.Size(put)), grpc.EmptyCallOption{}, 1, codes.ResourceExhausted},
		"the answer, on its way":        {status.Error(codes.ResourceExhausted, "grpc: received message larger than max (123456 vs. 1)"), grpc.EmptyCallOption{}, 1, codes.Unknown},
		"something that nobody tells":   {status.Error(codes.ResourceExhausted, "enough"), grpc.EmptyCallOption{}, 1, codes.Unknown},
		"too many requests":             {rpctypes.ErrGRPCRequestTooManyRequests, grpc.EmptyCallOption{}, 1, codes.ResourceExhausted},
		"no space, which does not mean": {rpctypes.ErrGRPCNoSpace, grpc.EmptyCallOption{}, 1, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			s.answer = always(c.answer)
			_, err := wire.KV(s.dial(t, clientv3.Config{}, grpc.WithChainUnaryInterceptor(small(c.limit)))).Txn(t.Context(), put)
			require.Equal(t, c.want, status.Code(err), "%v", err)
			require.Equal(t, c.arrived, s.arrived.Load())
		})
	}
}

// Whoever sends a second request beside the first sends nothing, and the first goes on.
func TestSecondRequestsBesideTheFirst(t *testing.T) {
	s := startServer(t)
	first, second := make(chan struct{}), make(chan struct{})
	s.answer = func(context.Context, int32) error {
		close(first)
		<-second
		return nil
	}
	kv := pb.NewKVClient(s.dial(t, clientv3.Config{}).ActiveConnection())
	resp, err := wire.Once(t.Context(), func(ctx context.Context, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
		type answer struct {
			resp *pb.TxnResponse
			err  error
		}
		answers := make(chan answer)
		go func() {
			resp, err := kv.Txn(ctx, put, slices.Clone(opts)...)
			answers <- answer{resp, err}
		}()
		<-first
		_, err := kv.Txn(ctx, put, slices.Clone(opts)...)
		require.Error(t, err)
		close(second)
		a := <-answers
		return a.resp, a.err
	})
	require.NoError(t, err)
	require.EqualValues(t, 7, resp.Header.Revision)
	require.EqualValues(t, 1, s.arrived.Load())
}

// What never left may be tried by whoever likes to, and its error is its own.
func TestRequestsThatDidNotLeave(t *testing.T) {
	s := startServer(t)
	tries := 0
	refusing := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if tries++; tries == 1 {
			return status.Error(codes.Canceled, "not yet")
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	resp, err := wire.KV(s.dial(t, clientv3.Config{}, grpc.WithChainUnaryInterceptor(refusing))).Txn(t.Context(), put)
	require.NoError(t, err)
	require.EqualValues(t, 7, resp.Header.Revision)
	require.EqualValues(t, 1, s.arrived.Load())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = wire.KV(s.dial(t, clientv3.Config{})).Txn(ctx, put)
	require.Equal(t, codes.Canceled, status.Code(err))
	require.EqualValues(t, 1, s.arrived.Load())
}

// A token that has expired is refreshed, and the request sent again: it was not applied.
func TestTokensAreRefreshed(t *testing.T) {
	for name, refused := range map[string]error{
		"expired": rpctypes.ErrGRPCInvalidAuthToken, "changed": rpctypes.ErrGRPCAuthOldRevision, "lost": rpctypes.ErrGRPCUserEmpty,
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			s.withAuth = true
			s.answer = func(_ context.Context, n int32) error {
				if n == 1 {
					return refused
				}
				return nil
			}
			kv := wire.KV(s.dial(t, clientv3.Config{Username: "root", Password: "secret"}))
			logins := s.logins.Load()
			resp, err := kv.Txn(t.Context(), put)
			require.NoError(t, err)
			require.EqualValues(t, 7, resp.Header.Revision)
			require.EqualValues(t, 2, s.arrived.Load())
			require.Greater(t, s.logins.Load(), logins)
		})
	}
}

// A revocation that was sent twice would be told that there is no such lease.
func TestLeasesAreRevokedOnce(t *testing.T) {
	s := startServer(t)
	s.answer = always(status.Error(codes.Canceled, "a hop has cancelled"))
	leases := serversBehind(t, s.dial(t, clientv3.Config{})).Lease()
	_, err := leases.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 1})
	require.Equal(t, codes.Canceled, status.Code(err))
	require.EqualValues(t, 1, s.arrived.Load())
	_, err = leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 1})
	require.Equal(t, codes.Canceled, status.Code(err))
	require.EqualValues(t, 2, s.arrived.Load())
}

// Reads are retried as clientv3 does.
func TestReadsAreRepeated(t *testing.T) {
	s := startServer(t)
	s.answer = func(_ context.Context, n int32) error {
		if n < 3 {
			return status.Error(codes.Canceled, "a hop has cancelled")
		}
		return nil
	}
	_, err := wire.KV(s.dial(t, clientv3.Config{})).Txn(t.Context(), readTxn)
	require.NoError(t, err)
	require.EqualValues(t, 3, s.reads.Load())
}
