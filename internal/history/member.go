package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// Member is the past of one member. It is safe for concurrent use.
type Member interface {
	// Watch calls fn with every revision of the whole keyspace from the member revision from on, in order and each
	// whole, until fn wants no more or fails; fn owns what it gets. Without prevKV previous values are left out. It
	// fails with a *MemberCompactedError if the member is compacted above from, and with the context's error and fn's.
	Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (more bool, err error)) error
	// Clock returns the record `clock` as of a member revision: the highest stamp that had come to the member by
	// then, and a revision at or below which nothing came later; zero before it was initialised. It fails with a
	// *MemberCompactedError, without a revision, if the member is compacted above rev.
	Clock(ctx context.Context, rev int64) (record.ClockRecord, error)
	// Point returns a key as it is stored as of a member revision; nil: there is none. It fails like Clock.
	Point(ctx context.Context, rev int64, key []byte) (*mvccpb.KeyValue, error)
	// State returns a key, which is in a slot, as of a member revision. It fails like Clock.
	State(ctx context.Context, rev int64, key []byte, slot int) (KeyState, error)
	// Change returns what a member revision has of a key: its change, if there was one, without the previous value, and the manifests,
	// which tell its stamp. It fails like Clock where the revision before it is compacted.
	Change(ctx context.Context, rev int64, key []byte) (mergedlog.MemberRevision, error)
}

// MemberCompactedError says that member revisions below Rev are gone.
type MemberCompactedError struct {
	Rev int64 // 0: not known
}

func (e *MemberCompactedError) Error() string {
	if e.Rev == 0 {
		return "metaetcd: member is compacted"
	}
	return fmt.Sprintf("metaetcd: member is compacted at its revision %d", e.Rev)
}

// client is a Member that asks an etcd.
type client struct {
	kv    pb.KVClient
	watch pb.WatchClient
	point func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
}

// Of returns the past of the member whose services these are. point reads single keys: many are read at once.
func Of(kv pb.KVClient, watch pb.WatchClient, point func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)) Member {
	return &client{kv, watch, point}
}

// errDone ends a watch that fn wants no more of.
var errDone = errors.New("the reader is done")

// Watch leaves nothing behind on return. A watch that breaks off goes on where it was.
func (c *client) Watch(ctx context.Context, from int64, prevKV bool, fn func(r mergedlog.MemberRevision) (bool, error)) error {
	for retry := (backoff.Backoff{}); ; {
		var why error // of fn
		err := wire.Watch(ctx, c.watch, from, prevKV, func(evs []*mvccpb.Event) error {
			retry.Reset()
			if len(evs) == 0 {
				return nil
			}
			from = evs[len(evs)-1].Kv.ModRevision + 1
			more, err := eachRevision(evs, fn)
			if more && err == nil {
				return nil
			}
			why = err
			return errDone
		})
		switch compacted, ok := errors.AsType[*wire.CompactedError](err); {
		case errors.Is(err, errDone):
			return why
		case ok:
			return &MemberCompactedError{Rev: compacted.Rev}
		case !wire.BrokeOff(err) && ctx.Err() == nil:
			return rpctypes.Error(err)
		case !retry.Wait(ctx):
			return ctx.Err()
		}
	}
}

// eachRevision groups events by member revision.
func eachRevision(evs []*mvccpb.Event, fn func(r mergedlog.MemberRevision) (bool, error)) (more bool, err error) {
	for len(evs) > 0 {
		r := mergedlog.MemberRevision{Rev: evs[0].Kv.ModRevision}
		for len(evs) > 0 && evs[0].Kv.ModRevision == r.Rev {
			r.Events = append(r.Events, evs[0])
			evs = evs[1:]
		}
		if more, err := fn(r); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Clock implements Member.
func (c *client) Clock(ctx context.Context, rev int64) (record.ClockRecord, error) {
	found, err := c.read(ctx, &pb.RangeRequest{Key: []byte(record.KeyClock), Revision: rev})
	if err != nil || len(found[0]) == 0 {
		return record.ClockRecord{}, err
	}
	return record.ParseClock(found[0][0].Value)
}

// Point implements Member.
func (c *client) Point(ctx context.Context, rev int64, key []byte) (*mvccpb.KeyValue, error) {
	for retry := (backoff.Backoff{}); ; {
		resp, err := c.point(ctx, &pb.RangeRequest{Key: key, Revision: rev})
		switch {
		case err == nil && len(resp.Kvs) > 0:
			return resp.Kvs[0], nil
		case err == nil:
			return nil, nil
		case errors.Is(err, rpctypes.ErrGRPCCompacted):
			return nil, &MemberCompactedError{}
		case !wire.Passing(err) || !retry.Wait(ctx):
			return nil, rpctypes.Error(err)
		}
	}
}

// State implements Member.
func (c *client) State(ctx context.Context, rev int64, key []byte, slot int) (s KeyState, err error) {
	at := func(key []byte) *pb.RangeRequest { return &pb.RangeRequest{Key: key, Revision: rev} }
	found, err := c.read(ctx, at(key), at(record.SlotKey(slot)), at([]byte(record.KeyFence)), at([]byte(record.KeyClock)), at([]byte(record.KeyLock)))
	if err != nil {
		return s, err
	}
	for _, kv := range found[0] {
		s.Kv = kv
	}
	for _, kv := range slices.Concat(found[1], found[2], found[4]) {
		s.Changed = max(s.Changed, kv.ModRevision)
	}
	for _, kv := range found[1] {
		if s.Slot, err = record.ParseNumber(kv.Value); err == nil {
			_, s.Locked, err = record.ParseHolder(kv.Value)
		}
		if err != nil {
			return s, err
		}
	}
	for _, kv := range found[2] {
		if _, s.Fence, err = record.ParsePair(kv.Value); err != nil {
			return s, err
		}
	}
	for _, kv := range found[3] {
		clock, err := record.ParseClock(kv.Value)
		if err != nil {
			return s, err
		}
		s.Clock = clock.Highest
	}
	for _, kv := range found[4] {
		_, whole, err := record.ParseHolder(kv.Value)
		if err != nil {
			return s, err
		}
		s.Locked = s.Locked || whole
	}
	return s, nil
}

// Change implements Member. This is the one place that reads the manifests of a single revision: those that are older are not its own.
func (c *client) Change(ctx context.Context, rev int64, key []byte) (mergedlog.MemberRevision, error) {
	r := mergedlog.MemberRevision{Rev: rev}
	nested, nestedEnd := record.NestedRange()
	found, err := c.read(ctx,
		&pb.RangeRequest{Key: key, Revision: rev - 1, KeysOnly: true},
		&pb.RangeRequest{Key: key, Revision: rev},
		&pb.RangeRequest{Key: nested, RangeEnd: nestedEnd, Revision: rev, MinModRevision: rev},
		&pb.RangeRequest{Key: []byte(record.KeyManifest), Revision: rev, MinModRevision: rev})
	if err != nil {
		return r, err
	}
	before, now := found[0], found[1]
	switch {
	case len(now) > 0 && now[0].ModRevision < rev, len(now)+len(before) == 0:
		return r, nil
	case len(now) > 0:
		r.Events = append(r.Events, &mvccpb.Event{Kv: now[0]})
	default:
		r.Events = append(r.Events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: key, ModRevision: rev}})
	}
	for _, kv := range slices.Concat(found[2], found[3]) {
		r.Events = append(r.Events, &mvccpb.Event{Kv: kv})
	}
	return r, nil
}

// read reads ranges at member revisions. What a server says of a revision that it has is right, whether it lags or not; one that does not
// have it yet is asked linearizably.
func (c *client) read(ctx context.Context, ranges ...*pb.RangeRequest) ([][]*mvccpb.KeyValue, error) {
	serializable := true
	for retry := (backoff.Backoff{}); ; {
		txn := &pb.TxnRequest{}
		for _, r := range ranges {
			r.Serializable = serializable
			txn.Success = append(txn.Success, request.Range(r))
		}
		resp, err := c.kv.Txn(ctx, txn)
		switch {
		case err == nil:
			found := make([][]*mvccpb.KeyValue, len(ranges))
			for i, r := range resp.Responses {
				found[i] = r.GetResponseRange().GetKvs()
			}
			return found, nil
		case errors.Is(err, rpctypes.ErrGRPCCompacted):
			return nil, &MemberCompactedError{}
		case errors.Is(err, rpctypes.ErrGRPCFutureRev) && serializable:
			serializable = false
		case !wire.Passing(err) || !retry.Wait(ctx):
			return nil, rpctypes.Error(err)
		}
	}
}
