package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/read"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
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
	if err := e.advanceCompacted(ctx, r.Revision); err != nil {
		return err
	}
	e.Feeds.Compacted.Raise(r.Revision)
	f.Forget()
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range e.Members {
		g.Go(func() error {
			rev, err := member.Persist(gctx, func(ctx context.Context) (int64, error) { return m.Harmless(ctx, los[i]) })
			if err == nil {
				_, err = member.Persist(gctx, func(ctx context.Context) (*pb.CompactionResponse, error) {
					resp, err := m.KV.Compact(ctx, &pb.CompactionRequest{Revision: rev, Physical: r.Physical})
					m.Seen(m.Index, "compact", err)
					return resp, err
				})
			}
			if err != nil && !errors.Is(err, rpctypes.ErrGRPCCompacted) { // already further: nothing to do
				return wire.Name(m.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// advanceCompacted raises the record `compacted` on the first member; etcd's ErrCompacted if it is there already. When it is asked
// more than once, one that is exactly there may have been raised by a request whose answer was lost: it counts as raised.
func (e *Engine) advanceCompacted(ctx context.Context, rev int64) error {
	key, want := []byte(record.KeyCompacted), record.Number(rev)
	attempts := 0
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{request.ValueBelow(key, want)},
		Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: key, Value: want})},
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: key})},
	}
	raise := func(ctx context.Context) (*pb.TxnResponse, error) {
		attempts++
		return e.Members[0].Txn(ctx, req)
	}
	resp, err := member.Persist(ctx, raise)
	if status.Code(err) == codes.Unknown { // it was sent, and nobody knows what became of it
		resp, err = member.Persist(ctx, raise)
	}
	if err != nil || resp.Succeeded {
		return err
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		switch there := bytes.Compare(kvs[0].Value, want); {
		case there == 0 && attempts > 1:
			return nil
		case there >= 0:
			return rpctypes.ErrGRPCCompacted
		}
	}
	return fmt.Errorf("metaetcd: member %s has lost its record of the compacted revision", e.Members[0].Name)
}
