package bridge

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/status"
)

// toStatus makes of a server's error what a connection makes of it: a gRPC status error. What carries a status keeps
// it; the errors of a context become Canceled and DeadlineExceeded; everything else is Unknown.
func toStatus(err error) error {
	// Not errors.As: the message of a wrapped status has to be the whole chain's.
	if direct, ok := err.(interface{ GRPCStatus() *status.Status }); ok && direct.GRPCStatus() != nil {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	// A cause that means something to whoever reads the stream must not shine through: io.EOF is a clean end, and a
	// context's error is taken for the caller's own.
	for _, plain := range []error{io.EOF, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, plain) {
			return st.Err()
		}
	}
	return &statusError{st: st, cause: err}
}

// statusError is a status error that remembers what it was made of.
type statusError struct {
	st    *status.Status
	cause error
}

func (e *statusError) Error() string              { return e.st.Err().Error() }
func (e *statusError) GRPCStatus() *status.Status { return e.st }
func (e *statusError) Unwrap() error              { return e.cause }
