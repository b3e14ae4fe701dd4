package bridge

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// errClosing is what calls get whose life has ended: what gRPC answers on a connection that was closed.
var errClosing = status.Error(codes.Canceled, "grpc: the client connection is closing")

// Life bounds calls: they fail once it has ended, and those under way are ended, as on a connection that is closed. It is that of a
// client whose handles are bridged. A nil Life never ends. Safe for concurrent use.
type Life struct {
	over context.Context

	conn *grpc.ClientConn // nil: over says it all
	end  context.CancelFunc
}

// LifeOf returns a life that ends when conn is closed. Calls under way learn of it only while Follow runs.
func LifeOf(conn *grpc.ClientConn) *Life {
	l := &Life{conn: conn}
	l.over, l.end = context.WithCancel(context.Background())
	return l
}

// LifeOfContext returns a life that ends with ctx; a nil one never does.
func LifeOfContext(ctx context.Context) *Life {
	if ctx == nil {
		return nil
	}
	return &Life{over: ctx}
}

// Follow returns when the life or ctx has ended.
func (l *Life) Follow(ctx context.Context) {
	for s := l.conn.GetState(); !l.ended(); s = l.conn.GetState() {
		if !l.conn.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// KVClient returns a client that calls s. It is safe for concurrent use if s is.
func (l *Life) KVClient(s pb.KVServer) pb.KVClient { return kvClient{s, l} }

// WatchClient returns a client that calls s. It is safe for concurrent use if s is.
func (l *Life) WatchClient(s pb.WatchServer) pb.WatchClient { return watchClient{s, l} }

// LeaseClient returns a client that calls s. It is safe for concurrent use if s is.
func (l *Life) LeaseClient(s pb.LeaseServer) pb.LeaseClient { return leaseClient{s, l} }

func (l *Life) ended() bool {
	switch {
	case l == nil:
		return false
	case l.over.Err() != nil:
		return true
	case l.conn == nil, l.conn.GetState() != connectivity.Shutdown:
		return false
	}
	l.end()
	return true
}

// done is closed when the life has ended and somebody has noticed.
func (l *Life) done() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.over.Done()
}

// during ends a context with the life.
func (l *Life) during(ctx context.Context) (context.Context, context.CancelFunc) {
	if l == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.over, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// toStatus is toStatus for the error of a call: where the life has ended it, that is what the caller is told.
func (l *Life) toStatus(ctx context.Context, err error) error {
	err = toStatus(err)
	if ctx.Err() == nil && status.Code(err) == codes.Canceled && l.ended() {
		return errClosing
	}
	return err
}
