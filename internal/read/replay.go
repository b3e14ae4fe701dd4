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
func (r *Reader) Landed(plan *translate.Plan, run *translate.Run, stamp int64, results []translate.Result) *pb.TxnResponse {
	r.cfg.Feeds.Tell(stamp)
	resp := plan.Answer(run, stamp, true, results)
	resp.Header = r.cfg.Feeds.Header()
	resp.Header.Revision = stamp
	return resp
}

// Replay computes what the steps of a transaction that landed answered: each on the snapshot before it with its own earlier
// writes on top. Errors of these reads are not the transaction's: they become commit.ErrUnknown.
func (r *Reader) Replay(ctx context.Context, run *translate.Run, stamp int64) ([]translate.Result, error) {
	for {
		f, err := r.cfg.Feeds.Wait(ctx)
		if err != nil {
			return nil, err
		}
		out, err := r.replayOn(ctx, f, run, stamp)
		switch {
		case err == nil:
			return out, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case r.cfg.Life.Over():
			return nil, r.cfg.Life.Cause()
		case f.Over(): // compaction has overtaken the log: there will be another one
			continue
		}
		return nil, fmt.Errorf("%w: it took effect at revision %d, but what it answers could not be read: %s", commit.ErrUnknown, stamp, err.Error())
	}
}

func (r *Reader) replayOn(ctx context.Context, f *feed.Feed, run *translate.Run, stamp int64) ([]translate.Result, error) {
	if err := f.Log.WaitClosed(ctx, stamp); err != nil {
		return nil, err
	}
	rp := &replay{reader: r, f: f, stamp: stamp, byKey: map[string][]*mergedlog.Event{}}
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
	reader *Reader
	f      *feed.Feed
	stamp  int64
	own    []*mergedlog.Event
	byKey  map[string][]*mergedlog.Event // the same: most steps read one key
}

// read reads the state that a step finds.
func (p *replay) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return p.reader.rangeAt(ctx, p.f, req, p.stamp-1, p.ownIn(req))
}

// ownIn are the transaction's own writes that may lie in a range.
func (p *replay) ownIn(req *pb.RangeRequest) []*mergedlog.Event {
	if len(req.RangeEnd) == 0 {
		return p.byKey[string(req.Key)]
	}
	return p.own
}

func (p *replay) step(ctx context.Context, s translate.Step) (translate.Result, error) {
	switch {
	case s.Range != nil:
		if s.Range.Revision > 0 { // others were checked before it landed: they are the present
			resp, err := p.reader.rangeAt(ctx, p.f, s.Range, s.Range.Revision, nil)
			return translate.Result{Range: resp}, err
		}
		resp, err := p.read(ctx, s.Range)
		return translate.Result{Range: resp}, err
	case s.Put != nil:
		prev, err := p.read(ctx, &pb.RangeRequest{Key: s.Put.Key})
		if err != nil {
			return translate.Result{}, err
		}
		p.put(s.Put, prev.Kvs)
		return translate.Result{Prev: prev.Kvs}, nil
	default:
		needs := snapshot.Keys
		if s.Delete.PrevKv {
			needs = snapshot.Values
		}
		req := &pb.RangeRequest{Key: s.Delete.Key, RangeEnd: s.Delete.RangeEnd}
		prev, err := p.reader.pairsAt(ctx, p.f, req, p.stamp-1, p.ownIn(req), needs, needs)
		if err != nil {
			return translate.Result{}, err
		}
		for _, kv := range prev.Kvs {
			p.write(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: p.stamp}, kv)
		}
		res := translate.Result{Deleted: int64(len(prev.Kvs))}
		if s.Delete.PrevKv {
			res.Prev = prev.Kvs
		}
		return res, nil
	}
}

func (p *replay) put(put *pb.PutRequest, prev []*mvccpb.KeyValue) {
	kv := &mvccpb.KeyValue{Key: put.Key, Value: put.Value, ModRevision: p.stamp, CreateRevision: p.stamp, Version: 1, Lease: put.Lease}
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
	p.write(mvccpb.Event_PUT, kv, old)
}

func (p *replay) write(t mvccpb.Event_EventType, kv, prev *mvccpb.KeyValue) {
	ev := &mergedlog.Event{Rev: p.stamp, Type: t, Kv: kv, PrevKv: prev, Member: p.reader.cfg.Ring.MemberOf(kv.Key)}
	p.own = append(p.own, ev)
	p.byKey[string(kv.Key)] = append(p.byKey[string(kv.Key)], ev)
}
