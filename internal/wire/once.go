package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Once makes a unary call whose request leaves this process at most once, but for attempts that the server certainly refused
// before it looked at the request. What is between may call as often as it likes: clientv3 repeats whatever ends with Canceled or
// DeadlineExceeded, and borrowed clients bring interceptors and retry policies of their own.
//
// When an attempt was sent, the error is that attempt's, never that of a later one.
func Once[T any](ctx context.Context, call func(ctx context.Context, opts ...grpc.CallOption) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &gate{codec: protoCodec(), cancel: cancel}
	// Without a buffer, gRPC itself sends nothing again once it has handed the request to a connection.
	resp, err := call(ctx, grpc.ForceCodecV2(g), grpc.OnFinish(g.finished), grpc.MaxRetryRPCBufferSize(0))
	if err != nil {
		err = g.why(err)
	}
	return resp, err
}

// errRepeated refuses to send a request again.
var errRepeated = errors.New("metaetcd: the request was sent already")

// gate is the codec of one call. Requests are encoded once per attempt, at the last moment before they are sent.
type gate struct {
	codec  encoding.CodecV2
	cancel context.CancelFunc // ends the attempts that would come

	mu    sync.Mutex
	sent  bool // a request has left, and may have been applied
	size  int  // of the request
	ended bool // … and its attempt is over
	err   error
}

// Marshal implements encoding.CodecV2.
func (g *gate) Marshal(v any) (mem.BufferSlice, error) {
	g.mu.Lock()
	sent := g.sent
	g.sent = true
	g.mu.Unlock()
	if sent {
		return nil, errRepeated
	}
	b, err := g.codec.Marshal(v)
	g.mu.Lock()
	g.size = b.Len()
	g.mu.Unlock()
	return b, err
}

// Unmarshal implements encoding.CodecV2.
func (g *gate) Unmarshal(data mem.BufferSlice, v any) error { return g.codec.Unmarshal(data, v) }

// Name implements encoding.CodecV2. Without one, the content type stays what it is by default.
func (g *gate) Name() string { return "" }

// finished learns how an attempt ended, before whoever made it does.
func (g *gate) finished(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.sent || g.ended, strings.HasSuffix(status.Convert(err).Message(), errRepeated.Error()):
	case untouched(err):
		g.sent = false
	default:
		g.ended, g.err = true, err
		if err != nil {
			g.cancel()
		}
	}
}

// why replaces the error of the call by that of the attempt that was sent, if there was one.
func (g *gate) why(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.sent:
		return err
	case status.Code(g.err) == codes.ResourceExhausted && !g.refused(g.err):
		return Unfit(g.err)
	case g.err != nil:
		return g.err
	}
	return status.Errorf(codes.Unknown, "the request was sent, and its answer was lost: %v", err)
}

// refused reports whether an error of exhausted resources comes from whoever did not take the request. Etcd's own do. Where a message
// was too large it may have been the request, which was not applied then, or the answer, so that it was: the message's size tells.
func (g *gate) refused(err error) bool {
	if errors.As(rpctypes.Error(err), new(rpctypes.EtcdError)) {
		return true
	}
	var size, limit int
	for _, format := range []string{"grpc: received message larger than max (%d vs. %d)", "trying to send message larger than max (%d vs. %d)"} {
		if n, _ := fmt.Sscanf(status.Convert(err).Message(), format, &size, &limit); n == 2 {
			return size == g.size
		}
	}
	return false
}

const unfitText = "the request was sent, and its answer did not fit"

// Unfit is the error of a request that was carried out, and whose answer was too large for a message, as cause says.
func Unfit(cause error) error { return status.Errorf(codes.Unknown, "%s: %v", unfitText, cause) }

// IsUnfit reports whether an error is that of a request whose answer did not fit.
func IsUnfit(err error) bool {
	return status.Code(err) == codes.Unknown && strings.HasPrefix(status.Convert(err).Message(), unfitText)
}

// untouched reports whether the server refused a request for a reason that is none of its own: it was not applied, and whoever
// made the attempt may have the means to try again.
func untouched(err error) bool {
	switch rpctypes.ErrorDesc(err) {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken), rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty), rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests):
		return true
	}
	return false
}

// protoCodec is the codec that gRPC uses by default, or what the process has registered in its place.
func protoCodec() encoding.CodecV2 {
	if c := encoding.GetCodecV2(proto.Name); c != nil {
		return c
	}
	return codecV1{encoding.GetCodec(proto.Name)}
}

// codecV1 makes a CodecV2 of an older codec.
type codecV1 struct{ encoding.Codec }

func (c codecV1) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.Codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (c codecV1) Unmarshal(data mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(data.Materialize(), v)
}
