package bridge

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// invoke runs one unary call on the caller's goroutine. The method is a method expression of the server's interface,
// because a method value would be an allocation per call.
func invoke[S, Req, Resp any](ctx context.Context, life *Life, name string, s S, method func(S, context.Context, *Req) (*Resp, error),
	in *Req, opts []grpc.CallOption,
) (*Resp, error) {
	if err := ctx.Err(); err != nil {
		return nil, toStatus(err)
	}
	if life.ended() {
		return nil, errClosing
	}
	during, stop := life.during(ctx)
	defer stop()
	call := &call{method: name}
	out, err := method(s, call.serverContext(during), in)
	call.answer(opts)
	if err != nil {
		return nil, life.toStatus(ctx, err)
	}
	return out, nil
}

// errHeaderSent is what gRPC's own transport answers.
var errHeaderSent = status.Error(codes.Internal, "transport: SendHeader called multiple times")

// call holds the metadata that a server sends with its answer. It is the grpc.ServerTransportStream of the server's
// context, so grpc.SetHeader, SendHeader, SetTrailer and Method work as over a connection. Safe for concurrent use.
type call struct {
	method string

	mu      sync.Mutex
	header  metadata.MD
	trailer metadata.MD
	sent    bool
	onSend  func() // told once, under mu, when the header leaves; may be nil
}

// serverContext is what the server sees of the caller's context.
func (c *call) serverContext(ctx context.Context) context.Context {
	out, sends := metadata.FromOutgoingContext(ctx)
	_, carries := metadata.FromIncomingContext(ctx) // of a call that the caller itself serves
	if sends {
		ctx = metadata.NewOutgoingContext(ctx, nil)
	}
	if sends || carries {
		ctx = metadata.NewIncomingContext(ctx, out)
	}
	return grpc.NewContextWithServerTransportStream(ctx, c)
}

// answer fills the addresses of grpc.Header and grpc.Trailer.
func (c *call) answer(opts []grpc.CallOption) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = c.sendHeader()
		case grpc.TrailerCallOption:
			*o.TrailerAddr = c.trailers()
		}
	}
}

// Method implements grpc.ServerTransportStream.
func (c *call) Method() string { return c.method }

// SetHeader implements grpc.ServerTransportStream.
func (c *call) SetHeader(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return errHeaderSent
	}
	c.header = metadata.Join(c.header, md)
	return nil
}

// SendHeader implements grpc.ServerTransportStream.
func (c *call) SendHeader(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return errHeaderSent
	}
	c.header = metadata.Join(c.header, md)
	c.sendHeaderLocked()
	return nil
}

// SetTrailer implements grpc.ServerTransportStream.
func (c *call) SetTrailer(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trailer = metadata.Join(c.trailer, md)
	return nil
}

// sendHeader lets the header leave if it has not yet, and returns it.
func (c *call) sendHeader() metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendHeaderLocked()
	return c.header
}

func (c *call) sendHeaderLocked() {
	if c.sent {
		return
	}
	c.sent = true
	if c.onSend != nil {
		c.onSend()
	}
}

func (c *call) trailers() metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trailer
}
