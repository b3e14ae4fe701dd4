package engine

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/read"
)

// Compact drops the history below a revision: the record first, by compare-and-swap, so that every process refuses what is about
// to go; then each member's own history. It returns when all members have answered. The header covers what was present. Its errors are
// etcd's, ErrCompacted and ErrFutureRev, or name the member.
func (e *Engine) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.ResponseHeader, error) {
	h := e.Feeds.KnownHeader()
	err := e.Reads.Serve(ctx, func(f *feed.Feed) error {
		at, err := e.Reads.RevisionFor(ctx, f, r.Revision)
		if err != nil {
			return err
		}
		h.Revision = max(h.Revision, at)
		return read.Asked(e.compactAt(ctx, f, r, at), true)
	})
	return h, err
}

func (e *Engine) compactAt(ctx context.Context, f *feed.Feed, r *pb.CompactionRequest, current int64) error {
	if r.Revision < 1 {
		return rpctypes.ErrGRPCCompacted
	}
	if r.Revision > current {
		return rpctypes.ErrGRPCFutureRev
	}
	// A watch from the compacted revision is allowed: what came before it must stay readable on every member.
	// Nothing below does harm when it is done twice: members whose leader changes, or that are down, are waited for.
	ctx, cancel := e.Life.Within(ctx)
	defer cancel()
	los := make([]int64, len(e.Members))
	for i := range e.Members {
		lo, err := member.Persist(ctx, func(ctx context.Context) (int64, error) { return f.Lo(ctx, i, r.Revision-1) })
		if err != nil {
			return err
		}
		los[i] = lo
	}
	if err := e.compactedOn().RaiseCompacted(ctx, r.Revision); err != nil {
		return err
	}
	e.Feeds.Compacted.Raise(r.Revision)
	f.Forget()
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range e.Members {
		g.Go(func() error { return m.Compact(gctx, los[i], r.Physical) })
	}
	return g.Wait()
}
