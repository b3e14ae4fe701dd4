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

// Records is what a member's reserved records say at one of its revisions.
type Records struct {
	mergedlog.MemberState
	Compacted int64            // the meta cluster's compacted revision; it counts on the member that the topology names
	Held      []mergedlog.Lock // with ReadOpening
}

// ReadRecords reads the member's present records, linearizably. A record that is missing is an error.
func (m *Member) ReadRecords(ctx context.Context) (Records, error) {
	r, _, err := m.readWith(ctx)
	return r, err
}

// ReadOpening is ReadRecords with the locks that are held at the same revision.
func (m *Member) ReadOpening(ctx context.Context) (Records, error) {
	key, end := record.SlotRange()
	r, more, err := m.readWith(ctx, request.Range(&pb.RangeRequest{Key: []byte(record.KeyLock)}), request.Range(&pb.RangeRequest{Key: key, RangeEnd: end}))
	r.Held = heldIn(m.Index, more)
	return r, err
}

func (m *Member) readWith(ctx context.Context, more ...*pb.RequestOp) (Records, []*pb.ResponseOp, error) {
	keys := []string{record.KeyFence, record.KeyClock, record.KeyCompacted}
	req := &pb.TxnRequest{}
	for _, k := range keys {
		req.Success = append(req.Success, request.Range(&pb.RangeRequest{Key: []byte(k)}))
	}
	req.Success = append(req.Success, more...)
	resp, err := m.Txn(ctx, req)
	if err != nil {
		return Records{}, nil, err
	}
	values := make([][]byte, len(keys))
	for i := range keys {
		kvs := resp.Responses[i].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return Records{}, nil, fmt.Errorf("metaetcd: member %s has lost its record %q", m.Name, keys[i])
		}
		values[i] = kvs[0].Value
	}
	r := Records{MemberState: mergedlog.MemberState{Rev: resp.Header.Revision}}
	var errs [3]error
	r.Epoch, r.Fence, errs[0] = record.ParsePair(values[0])
	clock, err := record.ParseClock(values[1])
	r.Clock, errs[1] = clock.Highest, err
	r.Compacted, errs[2] = record.ParseNumber(values[2])
	return r, resp.Responses[len(keys):], errors.Join(errs[:]...)
}

// Raised is a fence that holds on a member: in Epoch, from the member revision Rev on, at Fence or above.
type Raised struct {
	Epoch, Fence, Rev int64
	Now               bool // it was this request that raised it
}

// Raise makes the member refuse every stamp of the epoch at or below stamp. Where its fence is as high already, or in another epoch,
// it does nothing and answers with what is there.
func (m *Member) Raise(ctx context.Context, epoch, stamp int64) (Raised, error) {
	fence := []byte(record.KeyFence)
	resp, err := m.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			request.ValueAbove(fence, record.Number(epoch)), // the epoch's pairs begin with it
			request.ValueBelow(fence, record.Pair(epoch, stamp)),
		},
		Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: fence, Value: record.Pair(epoch, stamp)})},
		Failure: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: fence})},
	})
	if err != nil {
		return Raised{}, err
	}
	r := Raised{Epoch: epoch, Fence: stamp, Rev: resp.Header.Revision, Now: resp.Succeeded}
	if !resp.Succeeded {
		kvs := resp.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) != 1 {
			return Raised{}, m.lostFence()
		}
		r.Epoch, r.Fence, err = record.ParsePair(kvs[0].Value)
	}
	return r, err
}

// ReadDecided reads the decisions of transactions across members that are on this one, linearizably.
func (m *Member) ReadDecided(ctx context.Context) (map[record.TxnID]record.Decision, error) {
	key, end := record.TxnRange()
	resp, err := m.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: key, RangeEnd: end})}})
	if err != nil {
		return nil, err
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
		return fencer.Fence{}, wire.Name(m.Name, err)
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
