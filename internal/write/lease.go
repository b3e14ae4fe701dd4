package write

import (
	"bytes"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// leasesOf prepares a run to be built: it names the records of its leases, as this process knows them on the run's member.
// False: one does not live, or is unknown.
func (w *transaction) leasesOf(run *translate.Run) bool {
	for _, id := range run.Leases() {
		rec, ok := w.living(id)
		if !ok {
			return false
		}
		if run.Records == nil {
			run.Records = map[int64][]byte{}
		}
		run.Records[id] = rec.Encode()
	}
	return true
}

// living returns the record of a lease on the transaction's member, as this process knows it; false if none is known to live.
func (w *transaction) living(id int64) (record.LeaseRecord, bool) {
	rec, ok := w.c.Leases.Book().Get(w.member.Index, id)
	return rec, ok && !rec.Dead
}

// leasesLive reports whether all leases that the transaction names are known to live.
func (w *transaction) leasesLive() bool {
	for _, id := range w.plan.Leases {
		if _, ok := w.living(id); !ok {
			return false
		}
	}
	return true
}

// lookAtLeases reads the records of the leases that the transaction names, or its keys kept in the last attempt, and this process does
// not know, or may know wrongly.
func (w *transaction) lookAtLeases(ctx context.Context) error {
	ids := w.plan.Leases
	if w.run != nil {
		ids = append(slices.Clip(ids), w.run.Kept...)
	}
	for _, id := range ids {
		if _, ok := w.c.Leases.Book().Get(w.member.Index, id); ok && !w.stale {
			continue
		}
		if _, _, err := w.c.Leases.Look(ctx, w.member.Index, id); err != nil {
			return err
		}
	}
	return nil
}

// DropEntriesBehind removes, behind the caller's back, the entries of leased keys that a range delete at stamp has removed: it
// did not know them. Nothing depends on it; otherwise they stay until their leases end.
func (c *Writer) DropEntriesBehind(stamp int64) {
	c.Life.Spawn(func() {
		f, err := c.Feeds.Wait(c.Life.Context())
		if err != nil || f.Log.WaitClosed(c.Life.Context(), stamp) != nil {
			return
		}
		evs, _, err := f.Log.Since(stamp, 1)
		if err != nil {
			return
		}
		stale := make([][]lease.Entry, len(c.Members))
		for _, ev := range evs {
			if ev.Rev == stamp && ev.Type == mvccpb.Event_DELETE && ev.PrevKv.GetLease() != 0 {
				stale[ev.Member] = append(stale[ev.Member], lease.Entry{Lease: ev.PrevKv.Lease, Key: ev.Kv.Key})
			}
		}
		for m, entries := range stale {
			if err := c.Leases.Drop(c.Life.Context(), m, entries); err != nil && !c.Life.Over() {
				c.Logger.Debug("entries of leases stay until these end", zap.Error(err))
			}
		}
	})
}

const (
	// keysAtOnce bounds the keys of a lease that are deleted at one revision, and bytesAtOnce what they take of the request
	// that decides it. Larger leases end in several steps. Members that take few operations bound the keys further:
	// each takes two, and all of them a few.
	keysAtOnce  = 4096
	bytesAtOnce = 512 << 10
)

// DeleteAttached deletes the keys of a lease that are still as they were seen: attached to it. One that was put or
// deleted since is left alone. It returns the last revision that it took.
func (c *Writer) DeleteAttached(ctx context.Context, keys []lease.Attached) (int64, error) {
	var last int64
	keys = slices.SortedFunc(slices.Values(keys), func(a, b lease.Attached) int { return bytes.Compare(a.Key, b.Key) }) // as in etcd
	most := min(keysAtOnce, translate.Room(c.MaxTxnOps)/3)
	for len(keys) > 0 {
		req := &pb.TxnRequest{}
		for size := 0; len(keys) > 0 && len(req.Success) < most && size < bytesAtOnce; keys = keys[1:] {
			req.Success = append(req.Success, deleteIfAt(keys[0].Key, keys[0].Rev))
			size += 2 * len(keys[0].Key) // and its entry
		}
		resp, err := c.Do(ctx, req)
		if err != nil {
			return last, err
		}
		last = max(last, resp.Header.Revision)
		c.OnReapedKeys(deleted(resp))
	}
	return last, nil
}

// deleted counts the keys that deletes under conditions have deleted.
func deleted(resp *pb.TxnResponse) (n int64) {
	for _, r := range resp.Responses {
		for _, d := range r.GetResponseTxn().GetResponses() {
			n += d.GetResponseDeleteRange().GetDeleted()
		}
	}
	return n
}

// deleteIfAt deletes a key if it is as it was put at rev.
func deleteIfAt(key []byte, rev int64) *pb.RequestOp {
	return request.Txn(&pb.TxnRequest{
		Compare: []*pb.Compare{request.ModIs(key, rev)},
		Success: []*pb.RequestOp{request.Delete(&pb.DeleteRangeRequest{Key: key})},
	})
}
