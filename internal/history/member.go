package history

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Member is the past of one member. It is safe for concurrent use.
type Member interface {
	// Watch calls fn with every revision of the whole keyspace from the member revision from on, in order and each
	// whole, until fn wants no more or fails; fn owns what it gets. Without prevKV previous values are left out. It
	// fails with a *MemberCompactedError if the member is compacted above from, and with the context's error and fn's.
	Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (more bool, err error)) error
	// Clock returns the record `clock` as of a member revision: the highest stamp that had come to the member by
	// then; 0 before it was initialised. It fails with a *MemberCompactedError, without a revision, if the member is
	// compacted above rev.
	Clock(ctx context.Context, rev int64) (int64, error)
}

// MemberCompactedError says that member revisions below Rev are gone.
type MemberCompactedError struct {
	Rev int64 // 0: not known
}

func (e *MemberCompactedError) Error() string {
	if e.Rev == 0 {
		return "metaetcd: member is compacted"
	}
	return fmt.Sprintf("metaetcd: member is compacted at its revision %d", e.Rev)
}

// client is a Member that asks an etcd.
type client struct {
	kv    pb.KVClient
	watch pb.WatchClient
}

// Of returns the past of the member whose services these are.
func Of(kv pb.KVClient, watch pb.WatchClient) Member { return &client{kv, watch} }

// errDone ends a watch that fn wants no more of.
var errDone = errors.New("the reader is done")

// Watch leaves nothing behind on return. A watch that breaks off goes on where it was.
func (c *client) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	for retry := (backoff.Backoff{}); ; {
		var why error // of fn
		err := wire.Watch(ctx, c.watch, from, prevKV, func(evs []*mvccpb.Event) error {
			retry.Reset()
			if len(evs) == 0 {
				return nil
			}
			from = evs[len(evs)-1].Kv.ModRevision + 1
			more, err := eachRevision(evs, fn)
			if more && err == nil {
				return nil
			}
			why = err
			return errDone
		})
		switch compacted, ok := errors.AsType[*wire.CompactedError](err); {
		case errors.Is(err, errDone):
			return why
		case ok:
			return &MemberCompactedError{Rev: compacted.Rev}
		case !wire.BrokeOff(err) && ctx.Err() == nil:
			return rpctypes.Error(err)
		case !retry.Wait(ctx):
			return ctx.Err()
		}
	}
}

// eachRevision groups events by member revision.
func eachRevision(evs []*mvccpb.Event, fn func(r mergedlog.MemberRevision) (bool, error)) (more bool, err error) {
	for len(evs) > 0 {
		r := mergedlog.MemberRevision{Rev: evs[0].Kv.ModRevision}
		for len(evs) > 0 && evs[0].Kv.ModRevision == r.Rev {
			r.Events = append(r.Events, evs[0])
			evs = evs[1:]
		}
		if more, err := fn(r); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Clock asks linearizably: a server that lags may not have the revision yet.
func (c *client) Clock(ctx context.Context, rev int64) (int64, error) {
	resp, err := c.kv.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyClock), Revision: rev})
	switch {
	case errors.Is(err, rpctypes.ErrGRPCCompacted):
		return 0, &MemberCompactedError{}
	case err != nil || len(resp.Kvs) == 0:
		return 0, rpctypes.Error(err)
	}
	_, stamp, err := record.ParsePair(resp.Kvs[0].Value)
	return stamp, err
}
