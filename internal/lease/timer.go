package lease

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Sentinels have names in [sentinelPrefix, sentinelEnd) on the coordinator, and the values of living records.
const (
	sentinelPrefix = clock.Prefix + "lease/"
	sentinelEnd    = clock.Prefix + "lease0"
)

func sentinelKey(id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(sentinelPrefix), uint64(id))
}

func sentinelOf(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[len(sentinelPrefix):])) }

// startTimer grants the native lease of a grant, and returns the TTL that the coordinator made of the wanted one. A grant
// that has its timer already keeps it.
func (l *Lessor) startTimer(ctx context.Context, g, ttl int64) (int64, error) {
	resp, err := persist(ctx, func(ctx context.Context) (*pb.LeaseGrantResponse, error) {
		return l.cfg.Lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: g, TTL: ttl})
	})
	switch {
	case err == nil:
		return resp.TTL, nil
	case !errors.Is(err, rpctypes.ErrGRPCLeaseExist):
		return 0, err
	}
	left, err := l.timer(ctx, g)
	if err == nil && left.TTL < 0 {
		err = errGone
	}
	return left.GetGrantedTTL(), err
}

// timer reads the native lease of a grant. A TTL of -1: there is none.
func (l *Lessor) timer(ctx context.Context, g int64) (*pb.LeaseTimeToLiveResponse, error) {
	return persist(ctx, func(ctx context.Context) (*pb.LeaseTimeToLiveResponse, error) {
		return l.cfg.Lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: g})
	})
}

// stopTimer revokes the native lease of a grant. False: there was none.
func (l *Lessor) stopTimer(ctx context.Context, g int64) (stopped bool, err error) {
	asked := 0
	_, err = persist(ctx, func(ctx context.Context) (*pb.LeaseRevokeResponse, error) {
		asked++
		return l.cfg.Lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: g})
	})
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return asked > 1, nil // an answer was lost, and then it may have been ours
	}
	return err == nil, err
}

// post puts the sentinel of a grant whose timer runs, unless it is there. errExists: the lease has one of another grant; errEpoch:
// the compares do not hold; errGone: the timer has run out.
func (l *Lessor) post(ctx context.Context, holds []*pb.Compare, id int64, rec record.LeaseRecord) error {
	key := sentinelKey(id)
	resp, err := l.with(ctx, l.ofCoordinator, &pb.TxnRequest{
		Compare: append([]*pb.Compare{request.Absent(key, nil)}, holds...),
		Success: []*pb.RequestOp{putOp(key, rec.Encode(), rec.Grant)},
		Failure: ifHolds(holds, getOp(key, nil)),
	})
	switch {
	case errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
		return errGone
	case err != nil || resp.Succeeded:
		return err
	}
	t, err := otherwise(resp)
	if err != nil {
		return err
	}
	found, there, err := sentinelFrom(t.Responses[0].GetResponseRange())
	switch {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("%w: sentinel of lease %x", record.ErrMalformed, id)
	case found.Grant != rec.Grant:
		return errExists
	}
	return nil
}

// confirm demands the sentinel of a grant. errExists: the lease has one of another grant; errEpoch: the compares do not hold; errGone:
// it has none.
func (l *Lessor) confirm(ctx context.Context, holds []*pb.Compare, id int64, rec record.LeaseRecord) error {
	found, there, err := l.sentinelIn(ctx, holds, id)
	switch {
	case err != nil:
		return err
	case !there:
		return errGone
	case found.Grant != rec.Grant:
		return errExists
	}
	return nil
}

// sentinelIn reads a lease's sentinel in the epoch in which the compares hold, otherwise errEpoch.
func (l *Lessor) sentinelIn(ctx context.Context, holds []*pb.Compare, id int64) (rec record.LeaseRecord, there bool, err error) {
	resp, err := l.with(ctx, l.ofCoordinator, &pb.TxnRequest{Compare: holds, Success: []*pb.RequestOp{getOp(sentinelKey(id), nil)}})
	if err != nil {
		return rec, false, err
	}
	if !resp.Succeeded {
		return rec, false, errEpoch
	}
	return sentinelFrom(resp.Responses[0].GetResponseRange())
}

func sentinelFrom(r *pb.RangeResponse) (rec record.LeaseRecord, there bool, err error) {
	if len(r.GetKvs()) == 0 {
		return rec, false, nil
	}
	rec, err = record.ParseLease(r.Kvs[0].Value)
	return rec, err == nil, err
}

// sentinel reads a lease's sentinel. It is what says whether the lease lives.
func (l *Lessor) sentinel(ctx context.Context, id int64) (rec record.LeaseRecord, there bool, err error) {
	err = l.inEpoch(ctx, func(_ int64, holds []*pb.Compare) error {
		rec, there, err = l.sentinelIn(ctx, holds, id)
		return err
	})
	return rec, there, err
}

// allSentinels reads what its name says, as an operation for sentinels.
func allSentinels() *pb.RequestOp { return getOp([]byte(sentinelPrefix), []byte(sentinelEnd)) }

// sentinels returns those that the operations read: the grants that live, by lease.
func (l *Lessor) sentinels(ctx context.Context, reads ...*pb.RequestOp) (map[int64]int64, error) {
	grants := map[int64]int64{}
	err := l.inEpoch(ctx, func(_ int64, holds []*pb.Compare) error {
		resp, err := l.coordinator(ctx, &pb.TxnRequest{Compare: holds, Success: reads})
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return errEpoch
		}
		clear(grants)
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().GetKvs() {
				rec, err := record.ParseLease(kv.Value)
				if err != nil {
					return err
				}
				grants[sentinelOf(kv.Key)] = rec.Grant
			}
		}
		return nil
	})
	return grants, err
}

// inEpoch runs f in the present epoch, again in a later one if that turns out to have ended.
func (l *Lessor) inEpoch(ctx context.Context, f func(epoch int64, holds []*pb.Compare) error) error {
	for {
		err := f(l.cfg.Clock.Present())
		if !errors.Is(err, errEpoch) {
			return err
		}
		if err := l.sync(ctx); err != nil {
			return err
		}
	}
}

// restoredAtOnce bounds the sentinels that Restore puts by one transaction, and grantsAtOnce the timers that it starts at once.
const (
	restoredAtOnce = 50
	grantsAtOnce   = 32
)

// Restore gives a coordinator that has lost its data the timers of all living leases again, with their full TTL; see
// clock.Config. The timers may run already while the new clock is made: keep-alives reach them.
func (l *Lessor) Restore(ctx context.Context, life []*pb.Compare) error {
	living, err := l.living(ctx)
	if err != nil {
		return err
	}
	var todo []grant
	for id, rec := range living {
		todo = append(todo, grant{id, rec.Grant})
	}
	for part := range slices.Chunk(todo, restoredAtOnce) {
		// A timer that runs out before it has its sentinel is started again, and only those beside it are looked at again: there
		// may be more leases than can be restored in the shortest TTL.
		err := l.restore(ctx, life, part, living)
		for retry := (backoff.Backoff{}); errors.Is(err, errGone) && retry.Wait(ctx); {
			err = l.restore(ctx, life, part, living)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restore starts the timers of some grants, as far as they do not run, and posts their sentinels. errGone: one has run out
// meanwhile; errEpoch: life does not hold.
func (l *Lessor) restore(ctx context.Context, life []*pb.Compare, part []grant, recs map[int64]record.LeaseRecord) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(grantsAtOnce)
	req := &pb.TxnRequest{Compare: life}
	for _, t := range part {
		g.Go(func() error {
			_, err := l.startTimer(gctx, t.grant, recs[t.id].TTL)
			return err
		})
		key := sentinelKey(t.id)
		req.Success = append(req.Success, ifHolds([]*pb.Compare{request.Absent(key, nil)}, putOp(key, recs[t.id].Encode(), t.grant))...)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	resp, err := l.coordinator(ctx, req)
	switch {
	case errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
		return errGone
	case err == nil && !resp.Succeeded:
		return errEpoch
	}
	return err
}

// living reads all records of all members, and returns those of the leases that live: no member has marked them dead. Where
// members have different grants of an id, none of them was acknowledged, and any will do.
func (l *Lessor) living(ctx context.Context) (map[int64]record.LeaseRecord, error) {
	pages := make([][]*mvccpb.KeyValue, len(l.cfg.Members))
	err := l.eachMember(func(i int) (err error) {
		pages[i], err = l.records(ctx, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	living, dead := map[int64]record.LeaseRecord{}, map[int64]bool{}
	for _, kvs := range pages {
		for _, kv := range kvs {
			rec, err := record.ParseLease(kv.Value)
			if err != nil {
				return nil, err
			}
			if rec.Dead {
				dead[rec.Grant] = true
				continue
			}
			if _, ok := living[record.LeaseOf(kv.Key)]; !ok {
				living[record.LeaseOf(kv.Key)] = rec
			}
		}
	}
	for id, rec := range living {
		if dead[rec.Grant] {
			delete(living, id)
		}
	}
	return living, nil
}
