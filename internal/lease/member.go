package lease

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// records reads all lease records of a member.
func (l *Lessor) records(ctx context.Context, member int) ([]*mvccpb.KeyValue, error) {
	key, end := record.LeaseRange()
	resp, err := l.member(ctx, member, &pb.TxnRequest{Success: []*pb.RequestOp{getOp(key, end)}})
	if err != nil {
		return nil, err
	}
	return resp.Responses[0].GetResponseRange().Kvs, nil
}

// Load fills the book with all records of a member, at a revision at or after that of any earlier read. The changes that
// follow are for its stream to tell.
func (l *Lessor) Load(ctx context.Context, member int) error {
	key, end := record.LeaseRange()
	resp, err := l.member(ctx, member, &pb.TxnRequest{Success: []*pb.RequestOp{getOp(key, end)}})
	if err != nil {
		return err
	}
	return l.book.Load(member, resp.Header.Revision, resp.Responses[0].GetResponseRange().Kvs)
}

// Look reads a lease's record on a member into the book.
func (l *Lessor) Look(ctx context.Context, member int, id int64) (rec record.LeaseRecord, there bool, err error) {
	resp, err := l.member(ctx, member, &pb.TxnRequest{Success: []*pb.RequestOp{getOp(record.LeaseKey(id), nil)}})
	if err != nil {
		return rec, false, err
	}
	return l.learn(member, resp.Header.Revision, id, resp.Responses[0].GetResponseRange())
}

func (l *Lessor) learn(member int, rev, id int64, r *pb.RangeResponse) (rec record.LeaseRecord, there bool, err error) {
	if there = len(r.GetKvs()) == 1; there {
		if rec, err = record.ParseLease(r.Kvs[0].Value); err != nil {
			return rec, false, err
		}
	}
	l.book.Learn(member, rev, id, rec, there)
	return rec, there, nil
}

// look reads a lease's records on all members, those of one grant (0: of any). The others are nil.
func (l *Lessor) look(ctx context.Context, id, g int64) ([]*record.LeaseRecord, error) {
	recs := make([]*record.LeaseRecord, len(l.cfg.Members))
	err := l.eachMember(func(i int) error {
		rec, there, err := l.Look(ctx, i, id)
		if there && (g == 0 || rec.Grant == g) {
			recs[i] = &rec
		}
		return err
	})
	return recs, err
}

// enter puts the record of a grant on all members that work in epoch (otherwise errEpoch) and have none of the lease. It
// returns the record of an older grant if one is in the way. errGone: the grant is dead on some member.
func (l *Lessor) enter(ctx context.Context, epoch, id int64, rec record.LeaseRecord) (old *record.LeaseRecord, err error) {
	var mu sync.Mutex
	key, holds := record.LeaseKey(id), epochIs(epoch)
	req := &pb.TxnRequest{
		Compare: append([]*pb.Compare{request.Absent(key, nil)}, holds...),
		Success: []*pb.RequestOp{putOp(key, rec.Encode(), 0)},
		Failure: ifHolds(holds, getOp(key, nil)),
	}
	err = l.eachMember(func(i int) error {
		resp, err := l.with(ctx, l.ofMembers[i], req)
		if err != nil {
			return err
		}
		if resp.Succeeded {
			l.book.Learn(i, resp.Header.Revision, id, rec, true)
			return nil
		}
		t, err := otherwise(resp)
		if err != nil {
			return err
		}
		found, _, err := l.learn(i, resp.Header.Revision, id, t.Responses[0].GetResponseRange())
		switch {
		case err != nil:
			return err
		case found.Grant != rec.Grant:
			mu.Lock()
			defer mu.Unlock()
			old = &found
		case found.Dead:
			return errGone
		}
		return nil
	})
	return old, err
}

// kill marks the records of a grant dead, on members that work in epoch (otherwise errEpoch), once no transaction holds the
// lease there (otherwise errHeld). Members without a record of the grant are left alone.
func (l *Lessor) kill(ctx context.Context, epoch, id int64, recs []*record.LeaseRecord) error {
	key, holds := record.LeaseKey(id), epochIs(epoch)
	held, heldEnd := record.HeldRange(id)
	return l.eachMember(func(i int) error {
		if recs[i] == nil || recs[i].Dead {
			return nil
		}
		dead := *recs[i]
		dead.Dead = true
		resp, err := l.member(ctx, i, &pb.TxnRequest{
			Compare: append([]*pb.Compare{request.ValueIs(key, recs[i].Encode()), request.Absent(held, heldEnd)}, holds...),
			Success: []*pb.RequestOp{putOp(key, dead.Encode(), 0)},
			Failure: ifHolds(holds, getOp(key, nil)),
		})
		if err != nil {
			return err
		}
		if resp.Succeeded {
			l.book.Learn(i, resp.Header.Revision, id, dead, true)
			return nil
		}
		t, err := otherwise(resp)
		if err != nil {
			return err
		}
		found, there, err := l.learn(i, resp.Header.Revision, id, t.Responses[0].GetResponseRange())
		switch {
		case err != nil:
			return err
		case there && found == *recs[i]:
			return errHeld
		case there && found == dead:
			return nil
		}
		return errMoved
	})
}

// bury removes a dead record from its members, where no entry of the lease is left, and reports whether it has removed any. errMoved:
// there is an entry.
func (l *Lessor) bury(ctx context.Context, id int64, dead record.LeaseRecord) (buried bool, err error) {
	var removed atomic.Bool
	key := record.LeaseKey(id)
	entries, entriesEnd := record.AttachedRange(id)
	err = l.eachMember(func(i int) error {
		resp, err := l.member(ctx, i, &pb.TxnRequest{
			Compare: []*pb.Compare{request.ValueIs(key, dead.Encode()), request.Absent(entries, entriesEnd)},
			Success: []*pb.RequestOp{deleteOp(key)},
			Failure: []*pb.RequestOp{getOp(key, nil)},
		})
		if err != nil {
			return err
		}
		if resp.Succeeded {
			removed.Store(true)
			l.book.Learn(i, resp.Header.Revision, id, record.LeaseRecord{}, false)
			return nil
		}
		found, there, err := l.learn(i, resp.Header.Revision, id, resp.Responses[0].GetResponseRange())
		if err == nil && there && found == dead {
			err = errMoved
		}
		return err
	})
	return removed.Load(), err
}

// entriesAtOnce bounds the entries read by one request.
const entriesAtOnce = 5000

// attached reads a member's entries of a lease, and of their keys which are attached and which have gone. All requests compare
// the record, if one is given: errMoved says that it is another one. The member must have been seen with it.
func (l *Lessor) attached(ctx context.Context, member int, id int64, rec *record.LeaseRecord) (keys []Attached, stale [][]byte, err error) {
	var holds []*pb.Compare
	if rec != nil {
		holds = []*pb.Compare{request.ValueIs(record.LeaseKey(id), rec.Encode())}
	}
	key, end := record.AttachedRange(id)
	for more := true; more; {
		resp, err := l.member(ctx, member, &pb.TxnRequest{Compare: holds, Success: []*pb.RequestOp{
			request.Range(&pb.RangeRequest{Key: key, RangeEnd: end, KeysOnly: true, Limit: entriesAtOnce}),
		}})
		if err != nil {
			return nil, nil, err
		}
		if !resp.Succeeded {
			return nil, nil, errMoved
		}
		page := resp.Responses[0].GetResponseRange()
		for kvs := range slices.Chunk(page.Kvs, l.cfg.MaxTxnOps-1) {
			if keys, stale, err = l.states(ctx, member, id, holds, kvs, keys, stale); err != nil {
				return nil, nil, err
			}
		}
		if more = page.More; more {
			key = append(bytes.Clone(page.Kvs[len(page.Kvs)-1].Key), 0)
		}
	}
	return keys, stale, nil
}

// states sorts the keys of some entries into those that are attached to the lease and those that are not. It reads the values, which
// have the leases in front of them, only of keys that are not known as they are now.
func (l *Lessor) states(
	ctx context.Context, member int, id int64, holds []*pb.Compare, entries []*mvccpb.KeyValue, keys []Attached, stale [][]byte,
) ([]Attached, [][]byte, error) {
	put := func(entry, key []byte, rev, lease int64) {
		if lease == id {
			keys = append(keys, Attached{Key: key, Rev: rev})
		} else {
			stale = append(stale, entry)
		}
	}
	if l.cfg.Known != nil {
		heads, err := l.keysOf(ctx, member, holds, entries, true)
		if err != nil {
			return nil, nil, err
		}
		var unknown []*mvccpb.KeyValue
		for i, e := range entries {
			if kvs := heads[i].Kvs; len(kvs) == 0 {
				stale = append(stale, e.Key)
			} else if rev, lease, ok := l.cfg.Known(kvs[0]); ok {
				put(e.Key, kvs[0].Key, rev, lease)
			} else {
				unknown = append(unknown, e)
			}
		}
		entries = unknown
	}
	if len(entries) == 0 {
		return keys, stale, nil
	}
	found, err := l.keysOf(ctx, member, holds, entries, false)
	if err != nil {
		return nil, nil, err
	}
	for i, e := range entries {
		s, err := translate.StateOf(found[i])
		if err != nil {
			return nil, nil, err
		}
		put(e.Key, record.AttachedTo(e.Key), s.KV.GetModRevision(), s.KV.GetLease())
	}
	return keys, stale, nil
}

// keysOf reads the keys that entries name, with their values or without. errMoved: the compares do not hold.
func (l *Lessor) keysOf(ctx context.Context, member int, holds []*pb.Compare, entries []*mvccpb.KeyValue, keysOnly bool) ([]*pb.RangeResponse, error) {
	req := &pb.TxnRequest{Compare: holds}
	for _, e := range entries {
		req.Success = append(req.Success, request.Range(&pb.RangeRequest{Key: record.AttachedTo(e.Key), KeysOnly: keysOnly}))
	}
	resp, err := l.member(ctx, member, req)
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, errMoved
	}
	found := make([]*pb.RangeResponse, len(entries))
	for i := range found {
		found[i] = resp.Responses[i].GetResponseRange()
	}
	return found, nil
}

// drop deletes entries of a dead lease whose keys are not attached.
func (l *Lessor) drop(ctx context.Context, member int, id int64, dead record.LeaseRecord, entries [][]byte) error {
	for part := range slices.Chunk(entries, l.cfg.MaxTxnOps-1) {
		req := &pb.TxnRequest{
			Compare: []*pb.Compare{request.ValueIs(record.LeaseKey(id), dead.Encode())}, Success: []*pb.RequestOp{translate.Note()},
		}
		for _, e := range part {
			req.Success = append(req.Success, deleteOp(e))
		}
		resp, err := l.member(ctx, member, req)
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return errMoved
		}
	}
	return nil
}

// Entry says that a key was attached to a lease.
type Entry struct {
	Lease int64
	Key   []byte
}

// Drop deletes entries of a member whose keys are absent: nobody else would, before the lease ends.
func (l *Lessor) Drop(ctx context.Context, member int, entries []Entry) error {
	for part := range slices.Chunk(entries, max(l.cfg.MaxTxnOps/2-1, 1)) {
		req := &pb.TxnRequest{Success: []*pb.RequestOp{translate.Note()}}
		for _, e := range part {
			req.Success = append(req.Success, ifHolds([]*pb.Compare{request.Absent(e.Key, nil)}, deleteOp(record.AttachedKey(e.Lease, e.Key)))...)
		}
		if _, err := l.member(ctx, member, req); err != nil {
			return err
		}
	}
	return nil
}
