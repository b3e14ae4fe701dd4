package metaetcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/topology"
	"github.com/metaetcd/metaetcd/internal/validate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// ErrClosed ends requests that wait when the client is closed, and refuses later ones. A write that gets it was not in flight, or
// has landed and lacks only its answer.
//
// Returned by Revision, Health and the methods of KV and Lease, but for KeepAlive, whose channel is closed.
var ErrClosed error = commit.ErrClosed

// ErrUnknownOutcome says that a write may have landed or not, and that this process can no longer find out: the client was
// closed while the write was in flight, or its answer was lost and its member compacted so that no trace is left. A write
// that is known to have landed gets it if what it was to answer, like previous values, was compacted before it was read; the
// message says so. Over gRPC its code is Unknown.
//
// Returned by Put, Delete, Txn and Do. Reads never get it.
var ErrUnknownOutcome error = commit.ErrUnknown

// ErrReservedKey refuses keys that begin with byte 0: these names are metaetcd's own. Ranges may include them, and never show them.
//
// Returned by the methods of KV.
var ErrReservedKey error = validate.ErrReservedKey

// TopologyError refuses a configuration that is invalid, or that does not fit what the meta cluster was created with. Nothing was
// written, unless another process was creating a meta cluster from the same etcds at the same time.
//
// Returned by New. errors.Is finds its Kind in it.
type TopologyError struct {
	Kind      error  // ErrConfig, ErrSameCluster or another of the kinds
	Member    string // the member that it is about; empty: the coordinator, or the configuration as a whole
	Want, Got string // what is recorded or demanded, and what was found; empty where the kind says it all
}

func (e *TopologyError) Error() string { return (*topology.Error)(e).Error() }

// Unwrap returns the kind.
func (e *TopologyError) Unwrap() error { return e.Kind }

// The kinds of TopologyError.
var (
	// ErrConfig: the configuration is invalid, whatever the clusters hold. Nothing was contacted.
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
	// ErrMemberNumbers: the members' topology records give the members different numbers.
	ErrMemberNumbers error = topology.ErrNumbers
	// ErrTopologyFormat: the member was initialised by a version of metaetcd whose records this one cannot read. Nothing was written.
	// Open it with that version, or create a new meta cluster on empty etcds and copy the keys.
	ErrTopologyFormat error = topology.ErrFormat
)

// grpcError is an error as gRPC services return it: etcd's own errors by identity, contexts' errors as status codes.
func grpcError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrUnknownOutcome) { // whatever the cause: it must not look as if nothing was written
		return finalError(public(err))
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
	return finalError(public(err))
}

// MemberError is an error of one cluster of the meta cluster: it has no space left, does not permit a request, or does not answer.
//
// Returned by New, Health, Revision and the methods of KV and Lease. errors.As finds it, and errors.Is finds etcd's own error in it, as
// of package rpctypes. What is the fault of a request alone, like rpctypes.ErrRequestTooLarge, stays etcd's own error. So do all errors
// of a client that was passed to Install, and of clients of the services that Register offers: code that was written for etcd
// compares them with ==.
type MemberError struct {
	Member string // its name; empty: the coordinator
	Err    error  // as the cluster answered
}

func (e *MemberError) Error() string { return (*wire.Error)(e).Error() }

// Unwrap returns the cluster's error, and etcd's own in the form of clientv3.
func (e *MemberError) Unwrap() []error { return (*wire.Error)(e).Unwrap() }

// GRPCStatus is that of the cluster's error.
func (e *MemberError) GRPCStatus() *status.Status { return (*wire.Error)(e).GRPCStatus() }

// ForeignKeyError says that a member holds a key that metaetcd did not write. The cure is to stop all clients, to delete the key on its
// member, and to see to it that nobody else can write there.
//
// Returned by reads and range deletes whose range includes the key, and by Health.
type ForeignKeyError struct {
	Member string // its name
	Key    []byte
}

func (e *ForeignKeyError) Error() string { return (*member.ForeignKeyError)(e).Error() }

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
	e, ok := errors.AsType[*wire.Error](err)
	if ok && names && !errors.Is(err, ErrUnknownOutcome) && status.Code(e) != codes.InvalidArgument { // that is the request's own fault
		return namedError{(*MemberError)(e)}
	}
	return err
}

// finalError is an error of the process itself, as its services return it.
func finalError(err error) error {
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, ErrUnknownOutcome):
		code = codes.Unknown
	case errors.Is(err, ErrClosed):
		code = codes.Canceled
	}
	return wire.Final{Err: err, Code: code}
}

// public shows the errors of the rooms below as those that this package declares.
func public(err error) error {
	if refused, ok := errors.AsType[*topology.Error](err); ok {
		return (*TopologyError)(refused)
	}
	if err == nil {
		return nil
	}
	return publicError{err}
}

// publicError is found by errors.As in the types that this package declares.
type publicError struct{ error }

// Unwrap returns the error as the rooms below know it.
func (e publicError) Unwrap() error { return e.error }

// As implements the interface that errors.As looks for.
func (e publicError) As(target any) bool {
	switch t := target.(type) {
	case **MemberError:
		return show(e.error, func(found *wire.Error) { *t = (*MemberError)(found) })
	case **ForeignKeyError:
		return show(e.error, func(found *member.ForeignKeyError) { *t = (*ForeignKeyError)(found) })
	case **TopologyError:
		return show(e.error, func(found *topology.Error) { *t = (*TopologyError)(found) })
	case **WrongCoordinatorError:
		return show(e.error, func(found *clock.WrongCoordinatorError) { *t = (*WrongCoordinatorError)(found) })
	case **ForeignCoordinatorError:
		return show(e.error, func(found *clock.ForeignCoordinatorError) { *t = (*ForeignCoordinatorError)(found) })
	}
	return false
}

// show tells of an error of a type, if there is one in err.
func show[E error](err error, as func(E)) bool {
	found, ok := errors.AsType[E](err)
	if ok {
		as(found)
	}
	return ok
}
