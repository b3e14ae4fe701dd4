package metaetcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// presentFor returns a closed revision that is present when Compact(rev) is called. One that is known to be there already may be
// compacted while the closed revision is held up: a member may just need the space.
func (c *core) presentFor(ctx context.Context, f *feed, rev int64) (int64, error) {
	if rev > f.log.Closed() {
		return c.linearize(ctx, f)
	}
	wait, cancel := context.WithTimeout(ctx, fencedReadAfter)
	defer cancel()
	at, err := c.linearize(wait, f)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return f.log.Closed(), nil
	}
	return at, err
}

func (c *core) compact(ctx context.Context, f *feed, r *pb.CompactionRequest, current int64) error {
	if r.Revision < 1 {
		return rpctypes.ErrGRPCCompacted
	}
	if r.Revision > current {
		return rpctypes.ErrGRPCFutureRev
	}
	// A watch from the compacted revision is allowed: what came before it must stay readable on every member.
	los := make([]int64, len(c.members))
	for i := range c.members {
		lo, err := f.lo(ctx, i, r.Revision-1)
		if err != nil {
			return err
		}
		los[i] = lo
	}
	if err := c.advanceCompacted(ctx, r.Revision); err != nil {
		return err
	}
	c.noteCompacted(r.Revision)
	f.forget()
	ctx, cancel := c.whileOpen(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range c.members {
		g.Go(func() error {
			rev, err := m.harmless(gctx, los[i])
			if err == nil {
				_, err = m.kv.Compact(gctx, &pb.CompactionRequest{Revision: rev, Physical: r.Physical})
				m.seen(m.index, "compact", err)
			}
			if err != nil && !errors.Is(err, rpctypes.ErrGRPCCompacted) { // already further: nothing to do
				return wire.Name(m.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// harmless returns the last revision up to rev that the member may be compacted at. Etcd loses a key that was deleted and put in
// exactly the revision that it is compacted at. None is written like that any more, but a member may hold one.
func (m *member) harmless(ctx context.Context, rev int64) (int64, error) {
	ctx, cancel := m.whileOpen(ctx)
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
func (m *member) recreates(ctx context.Context, rev int64) (bool, error) {
	resp, err := m.rangeAt(ctx, &pb.RangeRequest{Key: record.MarkKey(0), Revision: rev})
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
	err = history.FromClient(m.cli).Watch(ctx, rev, false, func(r mergedlog.MemberRevision) (bool, error) {
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

// advanceCompacted raises the record `compacted` on the first member; etcd's ErrCompacted if it is there already.
func (c *core) advanceCompacted(ctx context.Context, rev int64) error {
	key, want := []byte(record.KeyCompacted), record.Number(rev)
	resp, err := c.members[0].txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: want}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: want}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	})
	if err != nil || resp.Succeeded {
		return err
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 && bytes.Compare(kvs[0].Value, want) >= 0 {
		return rpctypes.ErrGRPCCompacted
	}
	return fmt.Errorf("metaetcd: member %s has lost its record of the compacted revision", c.members[0].name)
}

// lo is the last native revision of a member before any stamp above r.
func (f *feed) lo(ctx context.Context, member int, r int64) (int64, error) {
	if r >= 0 {
		if lo, _, ok := f.log.Lo(member, r); ok {
			return lo, nil
		}
	}
	ctx, cancel := f.c.whileOpen(ctx)
	defer cancel()
	return f.history.Lo(ctx, member, r)
}
