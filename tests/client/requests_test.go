package client

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// requests tells of what clients of a cluster's nodes send: the event to wait for when something is to be under way. It is safe for
// concurrent use.
type requests struct {
	mu      sync.Mutex
	waiting map[string][]chan struct{} // for the next request to a server, by address
}

// seen is an option of a cluster whose clients r is told of.
func (r *requests) seen() metaetcdtest.Option {
	return metaetcdtest.WithClientConfig(func(cfg *clientv3.Config) {
		to := slices.Clone(cfg.Endpoints)
		unary := func(ctx context.Context, method string, req, resp any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			r.tell(to)
			return next(ctx, method, req, resp, cc, opts...)
		}
		stream := func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			r.tell(to)
			return next(ctx, d, cc, method, opts...)
		}
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream))
	})
}

func (r *requests) tell(servers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range servers {
		for _, next := range r.waiting[s] {
			close(next)
		}
		delete(r.waiting, s)
	}
}

// next is closed with the next request to a node.
func (r *requests) next(node *metaetcdtest.Node) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = map[string][]chan struct{}{}
	}
	next := make(chan struct{})
	r.waiting[node.Endpoint()] = append(r.waiting[node.Endpoint()], next)
	return next
}

// happened waits for an event.
func happened(t *testing.T, event <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(patience):
		require.FailNow(t, what)
	}
}
