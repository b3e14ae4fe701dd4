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
func (t *transaction) leasesOf(run *translate.Run) bool {
	for _, id := range run.Leases() {
		rec, ok := t.living(id)
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
func (t *transaction) living(id int64) (record.LeaseRecord, bool) {
	rec, ok := t.writer.cfg.Leases.Book().Get(t.member.Index, id)
	return rec, ok && !rec.Dead
}

// leasesLive reports whether all leases that the transaction names are known to live.
func (t *transaction) leasesLive() bool {
	for _, id := range t.plan.Leases {
		if _, ok := t.living(id); !ok {
			return false
		}
	}
	return true
}

// lookAtLeases reads the records of the leases that the transaction names, or its keys kept in the last attempt, and this process does
// not know, or may know wrongly.
func (t *transaction) lookAtLeases(ctx context.Context) error {
	ids := t.plan.Leases
	if t.run != nil {
		ids = append(slices.Clip(ids), t.run.Kept...)
	}
	for _, id := range ids {
		if _, ok := t.writer.cfg.Leases.Book().Get(t.member.Index, id); ok && !t.stale {
			continue
		}
		if _, _, err := t.writer.cfg.Leases.Look(ctx, t.member.Index, id); err != nil {
			return err
		}
	}
	return nil
}

// DropEntriesBehind removes, behind the caller's back, the entries of leased keys that a range delete at stamp has removed: it
// did not know them. Nothing depends on it; otherwise they stay until their leases end.
func (w *Writer) DropEntriesBehind(stamp int64) {
	w.cfg.Life.Spawn(func() {
		f, err := w.cfg.Feeds.Wait(w.cfg.Life.Context())
		if err != nil || f.Log.WaitClosed(w.cfg.Life.Context(), stamp) != nil {
			return
		}
		evs, _, err := f.Log.Since(stamp, 1)
		if err != nil {
			return
		}
		stale := make([][]lease.Entry, len(w.cfg.Members))
		for _, ev := range evs {
			if ev.Rev == stamp && ev.Type == mvccpb.Event_DELETE && ev.PrevKv.GetLease() != 0 {
				stale[ev.Member] = append(stale[ev.Member], lease.Entry{Lease: ev.PrevKv.Lease, Key: ev.Kv.Key})
			}
		}
		for m, entries := range stale {
			if err := w.cfg.Leases.Drop(w.cfg.Life.Context(), m, entries); err != nil && !w.cfg.Life.Over() {
				w.cfg.Logger.Debug("entries of leases stay until these end", zap.Error(err))
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
func (w *Writer) DeleteAttached(ctx context.Context, keys []lease.Attached) (int64, error) {
	var last int64
	keys = slices.SortedFunc(slices.Values(keys), func(a, b lease.Attached) int { return bytes.Compare(a.Key, b.Key) }) // as in etcd
	most := min(keysAtOnce, translate.Room(w.cfg.MaxTxnOps)/3)
	for len(keys) > 0 {
		req := &pb.TxnRequest{}
		for size := 0; len(keys) > 0 && len(req.Success) < most && size < bytesAtOnce; keys = keys[1:] {
			req.Success = append(req.Success, deleteIfAt(keys[0].Key, keys[0].Rev))
			size += 2 * len(keys[0].Key) // and its entry
		}
		resp, err := w.Do(ctx, req)
		if err != nil {
			return last, err
		}
		last = max(last, resp.Header.Revision)
		w.cfg.OnReapedKeys(deleted(resp))
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
