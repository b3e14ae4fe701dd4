package metaetcd

import (
	"context"

	"github.com/metaetcd/metaetcd/internal/clock"
)

// Revision returns the present revision: one that covers everything acknowledged before the call, by any process, and that can be read at
// once. It asks the coordinator, and waits as a linearizable Get does.
func (c *Client) Revision(ctx context.Context) (rev int64, err error) {
	rev, err = c.engine.Reads.Revision(ctx)
	return rev, public(c.engine.Over(ctx, err))
}

// ClosedRevision returns the revision up to which this process knows everything, without asking anybody. It never goes back. It may lie
// below a revision that a caller of this process was told of, like that of a write which was acknowledged a moment ago; serializable
// reads are served at the higher of the two, or above.
func (c *Client) ClosedRevision() int64 { return c.engine.Feeds.Closed() }

// WrongCoordinatorError says that another etcd cluster than the recorded one has begun to answer as the coordinator of a
// client that is open; New says the same with a TopologyError of kind ErrWrongCoordinator. It is not taken for a coordinator
// that lost its data: that must come back with the same etcd cluster id. Requests that need the coordinator fail with it as
// long as the wrong one answers.
//
// Returned by whatever needs the coordinator.
type WrongCoordinatorError struct {
	Want, Got uint64 // etcd cluster ids: the recorded one, and that of the cluster that answers
}

func (e *WrongCoordinatorError) Error() string { return (*clock.WrongCoordinatorError)(e).Error() }

// ForeignCoordinatorError says that the coordinator of a client that is open has lost its data and serves another meta
// cluster now, or somebody else; New says the same with a TopologyError of kind ErrForeignCoordinator, or ErrNotEmpty where the keys are not
// metaetcd's. Requests that need the coordinator fail with it.
//
// Returned by whatever needs the coordinator.
type ForeignCoordinatorError struct {
	Key     []byte // the first foreign key; nil: none
	Cluster uint64 // the meta cluster that the clock belongs to; 0: unknown
}

func (e *ForeignCoordinatorError) Error() string { return (*clock.ForeignCoordinatorError)(e).Error() }
