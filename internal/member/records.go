package member

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// records is what a member's reserved records say at one of its revisions.
type records struct {
	mergedlog.MemberState
	Compacted int64
	Held      []mergedlog.Lock // with readOpening
}

// ReadRecords reads the member's present records, linearizably.
func (m *Member) ReadRecords(ctx context.Context) (records, error) {
	r, _, err := m.readWith(ctx)
	return r, err
}

// ReadOpening is readRecords with the locks that are held at the same revision.
func (m *Member) ReadOpening(ctx context.Context) (records, error) {
	key, end := record.SlotRange()
	r, more, err := m.readWith(ctx, request.Range(&pb.RangeRequest{Key: []byte(record.KeyLock)}), request.Range(&pb.RangeRequest{Key: key, RangeEnd: end}))
	r.Held = heldIn(m.Index, more)
	return r, err
}

func (m *Member) readWith(ctx context.Context, more ...*pb.RequestOp) (records, []*pb.ResponseOp, error) {
	keys := []string{record.KeyFence, record.KeyClock, record.KeyCompacted}
	req := &pb.TxnRequest{}
	for _, k := range keys {
		req.Success = append(req.Success, request.Range(&pb.RangeRequest{Key: []byte(k)}))
	}
	req.Success = append(req.Success, more...)
	resp, err := m.Txn(ctx, req)
	if err != nil {
		return records{}, nil, err
	}
	values := make([][]byte, len(keys))
	for i := range keys {
		kvs := resp.Responses[i].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return records{}, nil, fmt.Errorf("metaetcd: member %s has lost its record %q", m.Name, keys[i])
		}
		values[i] = kvs[0].Value
	}
	r := records{MemberState: mergedlog.MemberState{Rev: resp.Header.Revision}}
	var errs [3]error
	r.Epoch, r.Fence, errs[0] = record.ParsePair(values[0])
	_, r.Clock, errs[1] = record.ParsePair(values[1])
	r.Compacted, errs[2] = record.ParseNumber(values[2])
	return r, resp.Responses[len(keys):], errors.Join(errs[:]...)
}

// Raised is a fence that holds on a member: in epoch, from the native revision on.
type Raised struct{ Epoch, Fence, Rev int64 }

// Raise makes the member refuse every stamp of the epoch at or below stamp (section 6). In another epoch it does nothing
// and answers with that epoch.
func (m *Member) Raise(ctx context.Context, epoch, stamp int64) (Raised, error) {
	fence := []byte(record.KeyFence)
	resp, err := m.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Value{Value: record.Number(epoch)}},
			{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: record.Pair(epoch, stamp)}},
		},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fence, Value: record.Pair(epoch, stamp)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: fence}}}},
	})
	if err != nil {
		return Raised{}, err
	}
	r := Raised{Epoch: epoch, Fence: stamp, Rev: resp.Header.Revision}
	if !resp.Succeeded {
		kvs := resp.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return Raised{}, m.lostFence()
		}
		r.Epoch, r.Fence, err = record.ParsePair(kvs[0].Value)
	}
	return r, err
}

// ReadDecided reads the decisions that are on the member.
func (m *Member) ReadDecided(ctx context.Context) (map[record.TxnID]record.Decision, error) {
	key, end := record.TxnRange()
	resp, err := m.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: key, RangeEnd: end})}})
	if err != nil {
		return nil, wire.Name(m.Name, err)
	}
	out := map[record.TxnID]record.Decision{}
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		id, err := record.TxnOf(kv.Key)
		if err != nil {
			return nil, err
		}
		if out[id], err = record.ParseDecision(kv.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// heldIn finds the locks among records that were read: of slots, and of the member.
func heldIn(member int, rs []*pb.ResponseOp) []mergedlog.Lock {
	var out []mergedlog.Lock
	for _, r := range rs {
		for _, kv := range r.GetResponseRange().GetKvs() {
			h, held, err := record.ParseHolder(kv.Value)
			if err != nil || !held {
				continue
			}
			slot := mergedlog.Whole
			if record.KindOf(kv.Key) == record.Slot {
				slot = record.SlotOf(kv.Key)
			}
			out = append(out, mergedlog.Lock{Member: member, Slot: slot, Held: true, Holder: h})
		}
	}
	return out
}

// LookAtFence reads the member's fence, linearizably. It costs no proposal, unlike a raise that is not needed.
func (m *Member) LookAtFence(ctx context.Context) (fencer.Fence, error) {
	ctx, cancel := m.Life.Within(ctx)
	defer cancel()
	resp, err := m.KV.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyFence)})
	m.Seen(m.Index, "range", err)
	if err != nil {
		return fencer.Fence{}, err
	}
	if len(resp.Kvs) != 1 {
		return fencer.Fence{}, m.lostFence()
	}
	f := fencer.Fence{Rev: resp.Header.Revision}
	f.Epoch, f.Fence, err = record.ParsePair(resp.Kvs[0].Value)
	return f, err
}

func (m *Member) lostFence() error {
	return fmt.Errorf("metaetcd: member %s has lost its fence", m.Name)
}
