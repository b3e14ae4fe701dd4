package read

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// rangeAt reads the snapshot at a revision which is closed, or settled on the members that hold the range, with the events of own on
// top: what a transaction at the next revision wrote before this read. The request's own revision is ignored; the response has no
// header.
func (r *Reader) rangeAt(ctx context.Context, f *feed.Feed, req *pb.RangeRequest, at int64, own []*mergedlog.Event) (*pb.RangeResponse, error) {
	shown, answered := snapshot.Levels(req)
	resp, err := r.pairsAt(ctx, f, req, at, own, shown, answered)
	if err == nil && req.KeysOnly {
		snapshot.Strip(resp.Kvs, req.SortTarget)
	}
	return resp, err
}

// pairsAt is rangeAt for a caller that says what it needs: pairs have at least what answered says, and none of KeysOnly is done.
func (r *Reader) pairsAt(
	ctx context.Context, f *feed.Feed, req *pb.RangeRequest, at int64, own []*mergedlog.Event, shown, answered snapshot.Level,
) (*pb.RangeResponse, error) {
	key, end, empty := req.Key, req.RangeEnd, false
	if len(end) > 0 {
		key, end, empty = validate.Clip(key, end)
	}
	if empty {
		return snapshot.Select(req, nil)
	}
	if len(end) == 0 && !req.CountOnly && (answered == snapshot.Values || !r.cfg.Cache.Has(key)) {
		shown, answered = snapshot.Values, snapshot.Values // to ask twice would cost more than the value
	}
	native := rangeCopy(req, key, end)
	b := r.newBases(f, r.cfg.Ring.MembersOf(key, end), at, shown, answered)
	for try := 1; ; try++ {
		resp, err := b.read(ctx, native, own)
		if !errors.Is(err, rpctypes.ErrGRPCCompacted) || try == behindTries || !r.behind(ctx, f, b.members, at) {
			return resp, f.OrEnd(err)
		}
	}
}

// behindTries bounds the attempts of a read that compactions by other processes overtake.
const behindTries = 3

// behind reports whether a read at a revision that a member refused as compacted is one that the meta cluster still allows. Revisions of
// the member that hold no stamp, like those that change leases and fences, say nothing of it: another process may have compacted
// up to one of them that this one had not seen. Then it has by the time this returns.
func (r *Reader) behind(ctx context.Context, f *feed.Feed, members []int, at int64) bool {
	ctx, cancel := r.cfg.Life.Within(ctx)
	defer cancel()
	rec, err := r.cfg.CompactedOn.ReadRecords(ctx)
	if err != nil || at < rec.Compacted {
		return false
	}
	for _, i := range members {
		rev, err := r.cfg.Members[i].Revision(ctx)
		if err != nil || f.Log.WaitReached(ctx, i, rev) != nil {
			return false
		}
	}
	return true
}

// atOnce does f for 0 to n-1 concurrently; the first error ends it.
func atOnce(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	if n == 1 {
		return f(ctx, 0)
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return f(gctx, i) })
	}
	return g.Wait()
}

func rangeCopy(req *pb.RangeRequest, key, end []byte) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: key, RangeEnd: end, Limit: req.Limit, SortOrder: req.SortOrder, SortTarget: req.SortTarget, KeysOnly: req.KeysOnly, CountOnly: req.CountOnly,
		MinModRevision: req.MinModRevision, MaxModRevision: req.MaxModRevision, MinCreateRevision: req.MinCreateRevision, MaxCreateRevision: req.MaxCreateRevision,
	}
}
