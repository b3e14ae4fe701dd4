package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/history"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/request"
)

// recall tells the doubts what a member committed while no stream was there to show it: between the end of the last feed, or
// later answers of the member, and the beginning of this one. Without it, silence would say nothing of requests that
// were under way then.
func (f *Feed) recall(ctx context.Context, m *member.Member) error {
	past, doubts := m.Past(), f.cfg.Doubts
	for {
		u, missing := doubts.Unseen(m.Index)
		if !missing {
			return nil
		}
		err := f.tell(ctx, m, u, u.After)
		if err == nil {
			err = past.Watch(ctx, u.After+1, false, func(r mergedlog.MemberRevision) (bool, error) {
				return doubts.Show(m.Index, r), nil
			})
		} else if errors.Is(err, rpctypes.ErrGRPCCompacted) { // the watch knows up to where
			err = past.Watch(ctx, u.After, false, func(mergedlog.MemberRevision) (bool, error) { return false, nil })
			if err == nil { // a server that lags
				err = lifetime.Pause(ctx, streamRetry)
			}
		}
		if gone, ok := errors.AsType[*history.MemberCompactedError](err); ok {
			err = f.tell(ctx, m, u, gone.Rev)
		}
		if err != nil && !errors.Is(err, rpctypes.ErrGRPCCompacted) {
			return fmt.Errorf("metaetcd: member %s: looking for writes under way: %w", m.Name, err)
		}
	}
}

// tell tells the doubts what the member held at one of its revisions.
func (f *Feed) tell(ctx context.Context, m *member.Member, u mergedlog.Unseen, rev int64) error {
	rev = max(rev, 1) // 0 would be the present
	keys, marks, marksEnd := mergedlog.MarkRecords()
	asks := []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: marks, RangeEnd: marksEnd, Revision: rev})}
	for _, key := range slices.Concat(keys, u.Keys) {
		asks = append(asks, request.Range(&pb.RangeRequest{Key: key, Revision: rev}))
	}
	var kvs []*mvccpb.KeyValue
	for some := range slices.Chunk(asks, f.cfg.MaxTxnOps) {
		resp, err := m.Txn(ctx, &pb.TxnRequest{Success: some})
		if err != nil {
			return err
		}
		for _, r := range resp.Responses {
			kvs = append(kvs, r.GetResponseRange().GetKvs()...)
		}
	}
	f.cfg.Doubts.At(m.Index, rev, kvs)
	return nil
}
