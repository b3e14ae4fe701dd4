package read

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/statecache"
)

// bases reads what members hold of a snapshot at a closed revision, without the values where the request can do without. Not safe for
// concurrent use.
type bases struct {
	reader  *Reader
	f       *feed.Feed
	members []int
	at      int64
	fresh   bool // they are of the present: the cache may learn them

	shown    snapshot.Level // what the bases are read with
	answered snapshot.Level // what the pairs of the answer get

	snaps []mergedlog.MemberSnapshot // by member
}

func (r *Reader) newBases(f *feed.Feed, members []int, at int64, shown, answered snapshot.Level) *bases {
	return &bases{reader: r, f: f, members: members, at: at, fresh: at >= f.Log.Closed(), shown: shown, answered: answered}
}

// locate finds where the snapshot is on each member.
func (b *bases) locate(ctx context.Context, key, end []byte) (err error) {
	b.snaps, err = b.f.Snapshot(ctx, b.at, b.members, key, end)
	return err
}

// read answers a range request.
func (b *bases) read(ctx context.Context, native *pb.RangeRequest, own []*mergedlog.Event) (*pb.RangeResponse, error) {
	if err := b.locate(ctx, native.Key, native.RangeEnd); err != nil {
		return nil, err
	}
	parts := make([]snapshot.Part, len(b.members))
	for i := range parts {
		parts[i].Tail = b.snaps[i].Tail
		if len(own) > 0 {
			parts[i].Tail = snapshot.Overlay(parts[i].Tail, own, b.members[i], native.Key, native.RangeEnd)
		}
	}
	err := atOnce(ctx, len(parts), func(ctx context.Context, i int) error { return b.readPart(ctx, native, i, &parts[i]) })
	if err != nil {
		return nil, err
	}
	rest, err := snapshot.Rest(native, parts)
	if err != nil {
		return nil, err
	}
	err = atOnce(ctx, len(rest), func(ctx context.Context, i int) error {
		if rest[i] == nil {
			return nil
		}
		resp, err := b.readBase(ctx, rest[i], i)
		if err == nil {
			parts[i].Kvs = append(parts[i].Kvs, resp.Kvs...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if b.shown == snapshot.Heads {
		err := atOnce(ctx, len(parts), func(ctx context.Context, i int) error {
			return b.completeOf(ctx, i, parts[i].Kvs, snapshot.Heads, true)
		})
		if err != nil {
			return nil, err
		}
	}
	resp, err := snapshot.Select(native, parts)
	if err == nil {
		// What is chosen by keys alone lies together; so, mostly, does what is most of the range.
		err = b.complete(ctx, resp.Kvs, b.shown == snapshot.Keys || int64(2*len(resp.Kvs)) >= resp.Count)
	}
	return resp, err
}

// readPart reads the base of a part that has its tail.
func (b *bases) readPart(ctx context.Context, req *pb.RangeRequest, i int, part *snapshot.Part) error {
	if len(req.RangeEnd) == 0 && len(part.Tail) > 0 {
		// The tail says it all of a single key.
		if part.Tail[0].PrevKv != nil {
			part.Count = 1
		}
		return nil
	}
	resp, err := b.readBase(ctx, snapshot.Plan(req, part.Tail, len(b.members)), i)
	if err != nil {
		return err
	}
	part.Kvs, part.Count, part.More = resp.Kvs, resp.Count, resp.More
	return nil
}

// readBase asks a member. Pairs with values are shown as their users know them, others are unread.
func (b *bases) readBase(ctx context.Context, native *pb.RangeRequest, i int) (*pb.RangeResponse, error) {
	m := b.reader.cfg.Members[b.members[i]]
	native.Revision, native.KeysOnly = b.snaps[i].Lo, b.shown < snapshot.Values && !native.CountOnly
	read := m.RangeAt
	if len(native.RangeEnd) == 0 {
		read = m.ReadPoint
	}
	resp, err := member.WhenBack(ctx, b.reader.cfg.Life, func() (*pb.RangeResponse, error) { return read(ctx, native) })
	if err != nil {
		return nil, err
	}
	for _, kv := range resp.Kvs {
		if native.KeysOnly {
			snapshot.SetUnread(kv)
		} else if err := record.ToUser(kv); err != nil {
			return nil, m.Foreign(kv.Key)
		}
	}
	return resp, nil
}

// complete gives the pairs of an answer what they lack. together: they are all or most of what lies between the first and
// the last of them.
func (b *bases) complete(ctx context.Context, kvs []*mvccpb.KeyValue, together bool) error {
	if b.answered > b.shown {
		parts := make([][]*mvccpb.KeyValue, len(b.members))
		for _, kv := range kvs {
			i := slices.Index(b.members, b.reader.cfg.Ring.MemberOf(kv.Key))
			if i < 0 {
				return fmt.Errorf("%w: key %q is not where it belongs", snapshot.ErrOverlap, kv.Key)
			}
			parts[i] = append(parts[i], kv)
		}
		err := atOnce(ctx, len(parts), func(ctx context.Context, i int) error {
			slices.SortFunc(parts[i], func(x, y *mvccpb.KeyValue) int { return bytes.Compare(x.Key, y.Key) })
			return b.completeOf(ctx, i, parts[i], b.answered, together)
		})
		if err != nil {
			return err
		}
	}
	dropMarks(kvs)
	return nil
}

// dropMarks ends that pairs are unread.
func dropMarks(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		if snapshot.Unread(kv) {
			kv.Value = nil
		}
	}
}

const (
	headsAtOnce    = 256 // keys in one request that completes pairs
	headRequests   = 3   // such requests to one member at once
	cacheShareLent = 2   // a list brings at most this part of the cache's capacity into it
)

// completeOf brings the unread pairs of one member, which are in the order of their keys, to a level. What the header says of a pair is
// known if the cache has it at the revision that the member shows: a revision of a member never changes. All others are read, with their
// values: neighbours as ranges, if they lie together.
func (b *bases) completeOf(ctx context.Context, i int, kvs []*mvccpb.KeyValue, level snapshot.Level, together bool) error {
	var runs [][]*mvccpb.KeyValue
	missing := 0
	for j, joined := 0, false; j < len(kvs); j++ {
		if !snapshot.Unread(kvs[j]) || level == snapshot.Heads && b.reader.KnownHead(kvs[j]) {
			joined = false
			continue
		}
		if last := len(runs) - 1; joined && together && len(runs[last]) < headsAtOnce {
			runs[last] = kvs[j-len(runs[last]) : j+1]
		} else {
			runs = append(runs, kvs[j:j+1])
		}
		missing++
		joined = true
	}
	learn := b.fresh && missing <= b.reader.cfg.CacheEntries/cacheShareLent
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(headRequests)
	for len(runs) > 0 {
		n, keys := 1, len(runs[0])
		for n < min(len(runs), b.reader.cfg.MaxTxnOps) && keys+len(runs[n]) <= headsAtOnce {
			keys += len(runs[n])
			n++
		}
		batch := runs[:n]
		runs = runs[n:]
		g.Go(func() error { return b.readPairs(gctx, i, batch, level, learn) })
	}
	return g.Wait()
}

// KnownHead fills in what the header of a pair says, if the cache has it. The pair has its member revisions. Its version is the member's
// one: no header that is written has a version base.
func (r *Reader) KnownHead(kv *mvccpb.KeyValue) bool {
	s, ok := r.cfg.Cache.Get(kv.Key)
	if !ok || s.NativeMod != kv.ModRevision || s.NativeCreate != kv.CreateRevision {
		return false
	}
	kv.ModRevision, kv.CreateRevision, kv.Lease = s.Stamp, s.Create, s.Lease
	return true
}

// readPairs reads runs of pairs at the revision that their member has shown them at.
func (b *bases) readPairs(ctx context.Context, i int, runs [][]*mvccpb.KeyValue, level snapshot.Level, learn bool) error {
	m := b.reader.cfg.Members[b.members[i]]
	reqs := make([]*pb.RangeRequest, len(runs))
	for j, run := range runs {
		reqs[j] = &pb.RangeRequest{Key: run[0].Key, Revision: b.snaps[i].Lo}
		if last := run[len(run)-1].Key; len(run) > 1 {
			reqs[j].RangeEnd = append(slices.Clip(last), 0)
		}
	}
	resps, err := member.WhenBack(ctx, b.reader.cfg.Life, func() ([]*pb.RangeResponse, error) { return m.RangesAt(ctx, reqs) })
	if err != nil {
		return err
	}
	for j, run := range runs {
		found := resps[j].Kvs
		for _, kv := range run {
			for len(found) > 0 && bytes.Compare(found[0].Key, kv.Key) < 0 {
				found = found[1:] // replaced or removed by the tail
			}
			if len(found) == 0 || !bytes.Equal(found[0].Key, kv.Key) { // another member has shown it
				return fmt.Errorf("%w: member %s does not have key %q", snapshot.ErrOverlap, m.Name, kv.Key)
			}
			if b.fill(kv, found[0], level, learn) != nil {
				return m.Foreign(kv.Key)
			}
		}
	}
	return nil
}

// fill completes a pair from what its member stores.
func (b *bases) fill(kv, stored *mvccpb.KeyValue, level snapshot.Level, learn bool) error {
	h, value, err := record.ParseHeader(stored.Value)
	if err != nil {
		return err
	}
	kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease = h.Stamp, h.Create, stored.Version+h.VersionBase, h.Lease
	if level == snapshot.Values {
		if kv.Value = value; len(value) == 0 {
			kv.Value = nil
		}
	}
	if learn {
		b.reader.cfg.Cache.Learn(kv.Key, statecache.State{
			NativeMod: stored.ModRevision, NativeCreate: stored.CreateRevision, Stamp: h.Stamp, Create: h.Create, Version: kv.Version, Lease: h.Lease,
		})
	}
	return nil
}
