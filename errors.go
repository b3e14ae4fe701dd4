package metaetcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// ErrClosed is what waits on a client gets when the client is closed.
var ErrClosed error = commit.ErrClosed

// ErrUnknownOutcome says that a write may have landed or not, and that this process can no longer find out: the log of its
// member was compacted before its mark was seen. A write that is known to have landed gets it if what it was to answer, like
// previous values, was compacted before it was read; the message says so. Over gRPC its code is Unknown.
var ErrUnknownOutcome error = commit.ErrUnknown

// ErrReservedKey refuses keys that begin with byte 0: these names are metaetcd's own.
var ErrReservedKey error = validate.ErrReservedKey

// TopologyError says which member, or the coordinator, is not what the meta cluster was created with, and how.
type TopologyError = topology.Error

// WrongCoordinatorError says that the coordinator is another etcd cluster than the recorded one. It is not
// rebuilt: a lost coordinator must come back with the same etcd cluster id.
type WrongCoordinatorError = clock.WrongCoordinatorError

// ForeignCoordinatorError says that the coordinator holds keys that are not metaetcd's.
type ForeignCoordinatorError = clock.ForeignCoordinatorError

// askedError marks an error about a revision that the request named: the request's own, not a sign of being behind.
type askedError struct{ error }

func (e askedError) Unwrap() error { return e.error }

func asked(err error, named bool) error {
	if err == nil || !named {
		return err
	}
	return askedError{err}
}

// grpcError is what the services return for an error of a request.
func (c *core) grpcError(ctx context.Context, err error) error { return grpcError(c.orOver(ctx, err)) }

// grpcError is an error as gRPC services return it: etcd's own errors by identity, contexts' errors as status codes.
func grpcError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrUnknownOutcome) { // whatever the cause: it must not look as if nothing was written
		return final{err}
	}
	for _, known := range []error{rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev} {
		if errors.Is(err, known) {
			return known
		}
	}
	type statusError interface {
		error
		GRPCStatus() *status.Status
	}
	if st, ok := errors.AsType[statusError](err); ok {
		return st
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return final{err}
}

// final carries an error of the process itself over the services, with a code that no client takes for a passing fault.
type final struct{ error }

func (e final) Unwrap() error { return e.error }

// GRPCStatus implements the interface that package status looks for.
func (e final) GRPCStatus() *status.Status {
	code := codes.FailedPrecondition
	switch {
	case errors.Is(e.error, ErrUnknownOutcome):
		code = codes.Unknown
	case errors.Is(e.error, ErrClosed):
		code = codes.Canceled
	}
	return status.New(code, e.Error())
}
