package history

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Member is the past of one member. It is safe for concurrent use.
type Member interface {
	// Watch calls fn with every revision of the whole keyspace from the native revision from on, in order and each
	// whole, until fn wants no more or fails; fn owns what it gets. Without prevKV previous values are left out. It
	// fails with a *MemberCompactedError if the member is compacted above from, and with the context's error and fn's.
	Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (more bool, err error)) error
	// Clock returns the record `clock` as of a native revision: the highest stamp that had come to the member by
	// then; 0 before it was initialised. It fails with a *MemberCompactedError, without a revision, if the member is
	// compacted above rev.
	Clock(ctx context.Context, rev int64) (int64, error)
}

// MemberCompactedError says that native revisions below Rev are gone.
type MemberCompactedError struct {
	Rev int64 // 0: not known
}

func (e *MemberCompactedError) Error() string {
	if e.Rev == 0 {
		return "metaetcd: member is compacted"
	}
	return fmt.Sprintf("metaetcd: member is compacted at its revision %d", e.Rev)
}

var errWatchEnded = errors.New("metaetcd: a watch of a member's history ended")

// client is a Member that asks an etcd.
type client struct {
	kv      clientv3.KV
	watcher func() clientv3.Watcher
}

// FromClient returns the past of the member that cli is connected to. The client is borrowed; its KV and Watcher
// may have been replaced.
func FromClient(cli *clientv3.Client) Member {
	return &client{kv: clientv3.NewKVFromKVClient(wire.KV(cli), cli), watcher: func() clientv3.Watcher { return clientv3.NewWatcher(cli) }}
}

// Watch uses a watcher of its own, so that nothing is left of it on return. What the caller does not take in time
// piles up in the watcher: fn has to be quick.
func (c *client) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	w := c.watcher()
	defer func() { _ = w.Close() }()
	opts := []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithRev(from)}
	if prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	for resp := range w.Watch(clientv3.WithRequireLeader(ctx), "\x00", opts...) {
		if resp.CompactRevision != 0 {
			return &MemberCompactedError{Rev: resp.CompactRevision}
		}
		if err := resp.Err(); err != nil {
			return err
		}
		if more, err := eachRevision(resp.Events, fn); !more || err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errWatchEnded
}

// eachRevision groups the events of a response by member revision. A response never splits one.
func eachRevision(evs []*clientv3.Event, fn func(r mergedlog.MemberRevision) (bool, error)) (more bool, err error) {
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
	resp, err := c.kv.Get(ctx, record.KeyClock, clientv3.WithRev(rev))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return 0, &MemberCompactedError{}
	case err != nil || len(resp.Kvs) == 0:
		return 0, err
	}
	_, stamp, err := record.ParsePair(resp.Kvs[0].Value)
	return stamp, err
}
