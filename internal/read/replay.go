package read

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Landed acknowledges a transaction that landed at stamp.
func (c *Reader) Landed(plan *translate.Plan, run *translate.Run, stamp int64, results []translate.Result) *pb.TxnResponse {
	c.Feeds.Tell(stamp)
	resp := plan.Answer(run, stamp, true, results)
	resp.Header = c.Feeds.Header()
	resp.Header.Revision = stamp
	return resp
}

// Replay computes what the steps of a transaction that landed answered: each on the snapshot before it with its own earlier
// writes on top. Errors of these reads are not the transaction's: they become commit.ErrUnknown.
func (c *Reader) Replay(ctx context.Context, run *translate.Run, stamp int64) ([]translate.Result, error) {
	for {
		f, err := c.Feeds.Wait(ctx)
		if err != nil {
			return nil, err
		}
		out, err := c.replayOn(ctx, f, run, stamp)
		switch {
		case err == nil:
			return out, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case c.Life.Over():
			return nil, c.Life.Cause()
		case f.Over(): // compaction has overtaken the log: there will be another one
			continue
		}
		return nil, fmt.Errorf("%w: it took effect at revision %d, but what it answers could not be read: %s", commit.ErrUnknown, stamp, err.Error())
	}
}

func (c *Reader) replayOn(ctx context.Context, f *feed.Feed, run *translate.Run, stamp int64) ([]translate.Result, error) {
	if err := f.Log.WaitClosed(ctx, stamp); err != nil {
		return nil, err
	}
	rp := &replay{c: c, f: f, stamp: stamp, byKey: map[string][]*mergedlog.Event{}}
	out := make([]translate.Result, len(run.Steps))
	for i, s := range run.Steps {
		var err error
		if out[i], err = rp.step(ctx, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// replay answers the steps of a transaction that landed at stamp, in order.
type replay struct {
	c     *Reader
	f     *feed.Feed
	stamp int64
	own   []*mergedlog.Event
	byKey map[string][]*mergedlog.Event // the same: most steps read one key
}

// read reads the state that a step finds.
func (r *replay) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return r.c.rangeAt(ctx, r.f, req, r.stamp-1, r.ownIn(req))
}

// ownIn are the transaction's own writes that may lie in a range.
func (r *replay) ownIn(req *pb.RangeRequest) []*mergedlog.Event {
	if len(req.RangeEnd) == 0 {
		return r.byKey[string(req.Key)]
	}
	return r.own
}

func (r *replay) step(ctx context.Context, s translate.Step) (translate.Result, error) {
	switch {
	case s.Range != nil:
		if s.Range.Revision > 0 { // others were checked before it landed: they are the present
			resp, err := r.c.rangeAt(ctx, r.f, s.Range, s.Range.Revision, nil)
			return translate.Result{Range: resp}, err
		}
		resp, err := r.read(ctx, s.Range)
		return translate.Result{Range: resp}, err
	case s.Put != nil:
		prev, err := r.read(ctx, &pb.RangeRequest{Key: s.Put.Key})
		if err != nil {
			return translate.Result{}, err
		}
		r.put(s.Put, prev.Kvs)
		return translate.Result{Prev: prev.Kvs}, nil
	default:
		needs := snapshot.Keys
		if s.Delete.PrevKv {
			needs = snapshot.Values
		}
		req := &pb.RangeRequest{Key: s.Delete.Key, RangeEnd: s.Delete.RangeEnd}
		prev, err := r.c.pairsAt(ctx, r.f, req, r.stamp-1, r.ownIn(req), needs, needs)
		if err != nil {
			return translate.Result{}, err
		}
		for _, kv := range prev.Kvs {
			r.write(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: r.stamp}, kv)
		}
		res := translate.Result{Deleted: int64(len(prev.Kvs))}
		if s.Delete.PrevKv {
			res.Prev = prev.Kvs
		}
		return res, nil
	}
}

func (r *replay) put(put *pb.PutRequest, prev []*mvccpb.KeyValue) {
	kv := &mvccpb.KeyValue{Key: put.Key, Value: put.Value, ModRevision: r.stamp, CreateRevision: r.stamp, Version: 1, Lease: put.Lease}
	var old *mvccpb.KeyValue
	if len(prev) > 0 {
		old = prev[0]
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if put.IgnoreValue {
			kv.Value = old.Value
		}
		if put.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	r.write(mvccpb.Event_PUT, kv, old)
}

func (r *replay) write(t mvccpb.Event_EventType, kv, prev *mvccpb.KeyValue) {
	ev := &mergedlog.Event{Rev: r.stamp, Type: t, Kv: kv, PrevKv: prev, Member: r.c.Ring.MemberOf(kv.Key)}
	r.own = append(r.own, ev)
	r.byKey[string(kv.Key)] = append(r.byKey[string(kv.Key)], ev)
}
