package member

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// Harmless returns the last member revision up to rev that the member may be compacted at; 0: none. Etcd loses a key that was deleted
// and put in exactly the revision that it is compacted at. None is written like that any more, but a member may hold one. A revision
// that is compacted already is harmless.
func (m *Member) Harmless(ctx context.Context, rev int64) (int64, error) {
	ctx, cancel := m.Life.Within(ctx)
	defer cancel()
	for ; rev > 0; rev-- {
		recreates, err := m.recreates(ctx, rev)
		if err != nil || !recreates {
			return rev, err
		}
	}
	return rev, nil
}

// recreates reports whether the member's revision deletes a key and then puts it. Only transactions do that which have a revision
// for themselves, and the first mark record tells these.
func (m *Member) recreates(ctx context.Context, rev int64) (bool, error) {
	resp, err := m.RangeAt(ctx, &pb.RangeRequest{Key: record.MarkKey(0), Revision: rev})
	if errors.Is(err, rpctypes.ErrGRPCCompacted) {
		return false, nil // the member is further: there is nothing to do
	}
	if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision != rev {
		return false, err
	}
	_, why, err := record.ParseMark(resp.Kvs[0].Value)
	if err != nil || why != record.Exclusive && why != record.Parted {
		return false, err
	}
	found := false
	err = m.Past().Watch(ctx, rev, false, func(r mergedlog.MemberRevision) (bool, error) {
		found = r.Rev == rev && recreated(r.Events)
		return false, nil
	})
	if errors.As(err, new(*history.MemberCompactedError)) {
		return false, nil
	}
	return found, err
}

func recreated(evs []*mvccpb.Event) bool {
	deleted := map[string]struct{}{}
	for _, e := range evs {
		if e.Type == mvccpb.Event_DELETE {
			deleted[string(e.Kv.Key)] = struct{}{}
		} else if _, ok := deleted[string(e.Kv.Key)]; ok {
			return true
		}
	}
	return false
}
