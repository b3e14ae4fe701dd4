package metaetcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/validate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// ErrClosed is what waits on a client gets when the client is closed, and what asks it later. A write that gets it was not in
// flight, or has landed and lacks only its answer.
var ErrClosed error = commit.ErrClosed

// ErrUnknownOutcome says that a write may have landed or not, and that this process can no longer find out: the client was
// closed while the write was in flight, or its answer was lost and its member compacted so that no trace is left. A write
// that is known to have landed gets it if what it was to answer, like previous values, was compacted before it was read; the
// message says so. Reads never get it. Over gRPC its code is Unknown.
var ErrUnknownOutcome error = commit.ErrUnknown

// ErrReservedKey refuses keys that begin with byte 0: these names are metaetcd's own.
var ErrReservedKey error = validate.ErrReservedKey

// MemberError is an error of one cluster of the meta cluster: that it has no space left, does not permit a request, does not answer.
// Member is its name, or empty for the coordinator.
//
// errors.As finds it in what New and the methods of a Client return, and errors.Is finds etcd's own error in it, as of package
// rpctypes. What is the fault of a request alone, like rpctypes.ErrRequestTooLarge, stays etcd's own error, which compares with ==. A client that was passed to Install, and clients of the services that Register offers, get etcd's own error itself
// instead, which names nobody: code that was written for etcd compares it with ==.
type MemberError = wire.Error

// ForeignKeyError says that a member holds a key that metaetcd did not write. Reads whose range includes it fail, and so do range
// deletes. The cure is to stop all clients, to delete the key on its member, and to see to it that nobody else can write there.
type ForeignKeyError struct {
	Member string
	Key    []byte
}

func (e *ForeignKeyError) Error() string {
	return fmt.Sprintf("metaetcd: member %s holds the key %q, which metaetcd did not write: stop all clients, delete it there, and let nobody else write to members", e.Member, e.Key)
}

// TopologyError is how New refuses a configuration that cannot be, or that does not fit what the meta cluster was created
// with. It says which member it is about, or that it is the coordinator or the configuration as a whole. Its Kind is one of
// the errors below, and errors.Is finds it.
type TopologyError = topology.Error

// The kinds of TopologyError.
var (
	// ErrConfig: the configuration by itself cannot be. Nothing was contacted.
	ErrConfig error = topology.ErrConfig
	// ErrSameCluster: two of the clients lead to one etcd cluster, or to two that were started with one token and the same
	// peer URLs, so that they have one cluster id.
	ErrSameCluster error = topology.ErrSameCluster
	// ErrMissingMember: a member that was recorded is not in the configuration.
	ErrMissingMember error = topology.ErrMissingMember
	// ErrUnknownMember: the configuration has a member that was not recorded.
	ErrUnknownMember error = topology.ErrUnknownMember
	// ErrRenamedMember: the member was recorded under another name.
	ErrRenamedMember error = topology.ErrRenamedMember
	// ErrSwappedMember: the client leads to another member.
	ErrSwappedMember error = topology.ErrSwappedMember
	// ErrForeignMember: the member belongs to another meta cluster.
	ErrForeignMember error = topology.ErrForeignMember
	// ErrLostMember: the member is empty, and the meta cluster is not new.
	ErrLostMember error = topology.ErrLostMember
	// ErrNotEmpty: what is or would be a member, or the coordinator, holds data that is not metaetcd's.
	ErrNotEmpty error = topology.ErrNotEmpty
	// ErrSlots: Sharding.Slots is not what was recorded.
	ErrSlots error = topology.ErrSlots
	// ErrSharding: Sharding.Segments or Sharding.Separator is not what was recorded.
	ErrSharding error = topology.ErrPolicy
	// ErrWrongCoordinator: the coordinator is another etcd cluster than the recorded one. See WrongCoordinatorError.
	ErrWrongCoordinator error = topology.ErrWrongCoordinator
	// ErrForeignCoordinator: the coordinator serves another meta cluster. See ForeignCoordinatorError.
	ErrForeignCoordinator error = topology.ErrForeignCoordinator
	// ErrVersion: a server is older than etcd 3.5.
	ErrVersion error = topology.ErrVersion
	// ErrTopologyFormat: the member was initialised by a version of metaetcd that this one does not know.
	ErrTopologyFormat error = topology.ErrFormat
)

// WrongCoordinatorError says that another etcd cluster than the recorded one has begun to answer as the coordinator of a
// client that is open; New says the same with a TopologyError of kind ErrWrongCoordinator. It is not taken for a coordinator
// that lost its data: that must come back with the same etcd cluster id. Requests that need the coordinator fail with it as
// long as the wrong one answers.
type WrongCoordinatorError = clock.WrongCoordinatorError

// ForeignCoordinatorError says that the coordinator of a client that is open has lost its data, and serves another meta
// cluster now; New says the same with a TopologyError of kind ErrForeignCoordinator, or ErrNotEmpty where the keys are not
// metaetcd's. Requests that need the coordinator fail with it.
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

// namedError is an error of one cluster as a Client's own methods return it. clientv3 makes etcd's own error of one whose gRPC status
// has etcd's text; so this one has another.
type namedError struct{ *MemberError }

func (e namedError) Unwrap() error { return e.MemberError }

// GRPCStatus implements the interface that package status looks for.
func (e namedError) GRPCStatus() *status.Status {
	return status.New(status.Code(e.MemberError), e.Error())
}

// named lets an error of a service keep its cluster, if it is to.
func named(names bool, err error) error {
	e, ok := errors.AsType[*MemberError](err)
	if ok && names && !errors.Is(err, ErrUnknownOutcome) && status.Code(e) != codes.InvalidArgument { // that is the request's own fault
		return namedError{e}
	}
	return err
}
