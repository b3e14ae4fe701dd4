package bridge

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What a connection buffers between two ends, in messages. Requests are small and a client that sends them may be the
// one that reads the answers, so there is room for many; answers may be large, and a slow reader must be felt.
const (
	requestBuffer  = 128
	responseBuffer = 8
)

// pipe is one streaming call. The client end and the server end are views of it.
//
// Invariants: err is written before done is closed and never afterwards; server ends when client does or when the
// handler has returned, so that a goroutine of the handler which outlives it gets an error from Send and Recv.
type pipe[Req, Resp any] struct {
	call

	life   *Life
	client context.Context // the caller's
	server context.Context // the handler's

	requests   chan *Req // closed by CloseSend
	responses  chan *Resp
	headerSent chan struct{}
	done       chan struct{} // closed when the handler has returned
	err        error         // how it ended; io.EOF for nil
}

// open starts the handler of a streaming call.
func open[Req, Resp any](ctx context.Context, life *Life, name string, handler func(serverEnd[Req, Resp]) error) (*clientEnd[Req, Resp], error) {
	if err := ctx.Err(); err != nil {
		return nil, toStatus(err)
	}
	if life.ended() {
		return nil, errClosing
	}
	p := &pipe[Req, Resp]{
		life:       life,
		client:     ctx,
		requests:   make(chan *Req, requestBuffer),
		responses:  make(chan *Resp, responseBuffer),
		headerSent: make(chan struct{}),
		done:       make(chan struct{}),
	}
	p.method = name
	p.onSend = func() { close(p.headerSent) }
	during, leave := life.during(p.serverContext(ctx))
	sctx, stop := context.WithCancel(during)
	p.server = sctx
	go func() {
		defer leave()
		defer stop()
		err := handler(serverEnd[Req, Resp]{p})
		p.finish(err)
	}()
	return &clientEnd[Req, Resp]{p: p}, nil
}

func (p *pipe[Req, Resp]) finish(err error) {
	p.err = io.EOF
	if err != nil {
		p.err = p.life.toStatus(p.client, err)
	}
	p.sendHeader()
	close(p.done)
}

// clientEnd is the caller's view. As in gRPC, one goroutine may send while another receives, and CloseSend belongs to
// the sending one.
type clientEnd[Req, Resp any] struct {
	p          *pipe[Req, Resp]
	sendClosed bool
}

// Context returns the caller's context.
func (c *clientEnd[Req, Resp]) Context() context.Context { return c.p.client }

// Send hands a request over. io.EOF: the call is over, Recv says how.
func (c *clientEnd[Req, Resp]) Send(m *Req) error {
	if c.sendClosed {
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	if c.p.server.Err() != nil {
		return io.EOF
	}
	select {
	case c.p.requests <- m:
		return nil
	case <-c.p.server.Done():
		return io.EOF
	}
}

// CloseSend tells the handler that no request follows.
func (c *clientEnd[Req, Resp]) CloseSend() error {
	if !c.sendClosed {
		c.sendClosed = true
		close(c.p.requests)
	}
	return nil
}

// Recv returns the next response; after the last, the handler's error, io.EOF if it had none; and the context's error
// as a status as soon as the caller's context ends.
func (c *clientEnd[Req, Resp]) Recv() (*Resp, error) {
	if err := c.p.client.Err(); err != nil {
		return nil, toStatus(err)
	}
	select {
	case <-c.p.life.done():
		return nil, errClosing
	case m := <-c.p.responses:
		return m, nil
	case <-c.p.done:
		return c.last()
	case <-c.p.client.Done():
		return nil, toStatus(c.p.client.Err())
	}
}

// last drains what the handler had sent before it returned.
func (c *clientEnd[Req, Resp]) last() (*Resp, error) {
	select {
	case m := <-c.p.responses:
		return m, nil
	default:
		return nil, c.p.err
	}
}

// Header waits for the handler's header; it leaves with the first response at the latest.
func (c *clientEnd[Req, Resp]) Header() (metadata.MD, error) {
	select {
	case <-c.p.headerSent:
		return c.p.sendHeader(), nil
	case <-c.p.life.done():
		return nil, errClosing
	case <-c.p.client.Done():
		return nil, toStatus(c.p.client.Err())
	}
}

// Trailer returns the handler's trailer; it is complete once Recv has returned an error.
func (c *clientEnd[Req, Resp]) Trailer() metadata.MD { return c.p.trailers() }

// SendMsg implements grpc.ClientStream.
func (c *clientEnd[Req, Resp]) SendMsg(m any) error {
	req, ok := m.(*Req)
	if !ok {
		return typeError(m)
	}
	return c.Send(req)
}

// RecvMsg implements grpc.ClientStream.
func (c *clientEnd[Req, Resp]) RecvMsg(m any) error {
	resp, err := c.Recv()
	if err != nil {
		return err
	}
	return fill(m, resp)
}

// serverEnd is the handler's view. One goroutine may send while another receives.
type serverEnd[Req, Resp any] struct{ p *pipe[Req, Resp] }

// Context returns the handler's context: it ends with the caller's and when the handler returns.
func (s serverEnd[Req, Resp]) Context() context.Context { return s.p.server }

// Send hands a response over, waiting while the caller is slow.
func (s serverEnd[Req, Resp]) Send(m *Resp) error {
	if err := s.p.server.Err(); err != nil {
		return toStatus(err)
	}
	s.p.sendHeader()
	select {
	case s.p.responses <- m:
		return nil
	case <-s.p.server.Done():
		return toStatus(s.p.server.Err())
	}
}

// Recv returns the next request, io.EOF after the caller's CloseSend.
func (s serverEnd[Req, Resp]) Recv() (*Req, error) {
	if err := s.p.server.Err(); err != nil {
		return nil, toStatus(err)
	}
	select {
	case m, ok := <-s.p.requests:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-s.p.server.Done():
		return nil, toStatus(s.p.server.Err())
	}
}

// SetHeader implements grpc.ServerStream.
func (s serverEnd[Req, Resp]) SetHeader(md metadata.MD) error { return s.p.SetHeader(md) }

// SendHeader implements grpc.ServerStream.
func (s serverEnd[Req, Resp]) SendHeader(md metadata.MD) error { return s.p.SendHeader(md) }

// SetTrailer implements grpc.ServerStream.
func (s serverEnd[Req, Resp]) SetTrailer(md metadata.MD) { _ = s.p.SetTrailer(md) }

// SendMsg implements grpc.ServerStream.
func (s serverEnd[Req, Resp]) SendMsg(m any) error {
	resp, ok := m.(*Resp)
	if !ok {
		return typeError(m)
	}
	return s.Send(resp)
}

// RecvMsg implements grpc.ServerStream.
func (s serverEnd[Req, Resp]) RecvMsg(m any) error {
	req, err := s.Recv()
	if err != nil {
		return err
	}
	return fill(m, req)
}

// fill copies a message that was passed by pointer into one that the receiver brought along.
func fill(dst, src any) error {
	to, ok := dst.(proto.Message)
	from, ok2 := src.(proto.Message)
	if !ok || !ok2 || to.ProtoReflect().Descriptor() != from.ProtoReflect().Descriptor() {
		return typeError(dst)
	}
	proto.Reset(to)
	proto.Merge(to, from)
	return nil
}

func typeError(m any) error {
	return status.Error(codes.Internal, fmt.Sprintf("bridge: a message of type %T does not belong to this call", m))
}
