package wire

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is an error of a request, with the cluster that it comes from. It is found by errors.As, and etcd's own errors behind it by
// errors.Is, in the form that they have on the wire and in that of clientv3. Its gRPC status is that of the request.
type Error struct {
	Member string // the member's name; empty: the coordinator
	Err    error  // as the request returned it
}

// Name says which cluster an error of a request to it comes from; an empty name is the coordinator's. An error that has a name keeps
// it, and nil stays nil. What is no answer of a cluster gets the name in its text alone.
func Name(member string, err error) error {
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	e := &Error{Member: member, Err: err}
	if _, ok := status.FromError(err); !ok {
		return fmt.Errorf("%s: %w", e.from(), err)
	}
	return e
}

func (e *Error) from() string {
	if e.Member == "" {
		return "metaetcd: coordinator"
	}
	return "metaetcd: member " + e.Member
}

func (e *Error) Error() string {
	text := e.from() + ": " + rpctypes.Error(e.Err).Error()
	if status.Code(e.Err) == codes.PermissionDenied {
		text += " (the user that its client logs in with needs readwrite on all keys, those that begin with byte 0 included; to compact, the role root)"
	}
	return text
}

// Unwrap returns the request's error, and etcd's own in the form of clientv3.
func (e *Error) Unwrap() []error {
	if known, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(e.Err)); ok {
		return []error{e.Err, known}
	}
	return []error{e.Err}
}

// GRPCStatus implements the interface that package status looks for.
func (e *Error) GRPCStatus() *status.Status { return status.Convert(e.Err) }
