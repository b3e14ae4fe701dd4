package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/record"
)

// maxTTL is etcd's limit of a TTL, in seconds.
const maxTTL = 9_000_000_000

// Grant creates a lease, with a random id if id is 0, and returns it with the TTL that the coordinator made of the wanted
// one. Errors are etcd's: ErrGRPCLeaseTTLTooLarge, ErrGRPCLeaseExist. It needs all members.
func (l *Lessor) Grant(ctx context.Context, id, ttl int64) (int64, int64, error) {
	if ttl > maxTTL {
		return 0, 0, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	for {
		granted := id
		if granted == 0 {
			granted = 1 + rand.Int64N(1<<62)
		}
		actual, err := l.grant(ctx, granted, ttl)
		switch {
		case errors.Is(err, errGone), errors.Is(err, errExists) && id == 0:
			continue
		case errors.Is(err, errExists):
			err = rpctypes.ErrGRPCLeaseExist
		}
		return granted, actual, err
	}
}

// grant makes one attempt. errGone: the timer ran out before all was done, and nothing is left.
func (l *Lessor) grant(ctx context.Context, id, ttl int64) (int64, error) {
	began, g := time.Now(), newGrant()
	ttl, err := l.startTimer(ctx, g, ttl)
	if err != nil {
		return 0, err
	}
	l.renew.started(g, began, ttl)
	err = l.establish(ctx, id, own(g, ttl), l.post)
	if err == nil && time.Since(began) > time.Duration(ttl)*time.Second/2 {
		err = l.restart(ctx, g)
	}
	switch {
	case errors.Is(err, errExists):
		l.life.Spawn(func() { _, _ = l.stopTimer(l.life.Context(), g) }) //nolint:contextcheck // beside the caller; it would run out anyway
	case errors.Is(err, errGone):
		if _, err := l.reap(ctx, grant{id, g}); err != nil && !errors.Is(err, errAlive) {
			return 0, err
		}
	}
	return ttl, err
}

// restart gives a timer its full TTL again, after a grant that took long.
func (l *Lessor) restart(ctx context.Context, g int64) error {
	left, err := l.renew.once(ctx, g)
	if err == nil && left <= 0 {
		err = errGone
	}
	return err
}

// establish enters the records of a grant whose timer runs, while its sentinel is there: begin, post or confirm, sees to that. Any
// process may do it, and again. errExists: the lease has another grant; errGone: this one has ended, and may have left records.
func (l *Lessor) establish(
	ctx context.Context, id int64, rec record.LeaseRecord,
	begin func(ctx context.Context, holds []*pb.Compare, id int64, rec record.LeaseRecord) error,
) error {
	for {
		var old *record.LeaseRecord
		err := l.inEpoch(ctx, func(epoch int64, holds []*pb.Compare) error {
			err := begin(ctx, holds, id, rec)
			if err != nil {
				return err
			}
			if old, err = l.enter(ctx, epoch, id, rec); err != nil || old != nil {
				return err
			}
			// The grant may have ended meanwhile, and the records have come when all that it had left was gone.
			return l.confirm(ctx, holds, id, rec)
		})
		if err != nil || old == nil {
			return err
		}
		// Its sentinel has gone, or there would be no room for this one.
		if _, err := l.reap(ctx, grant{id, old.Grant}); err != nil && !errors.Is(err, errAlive) {
			return err
		}
	}
}

// Dead returns those of some leases that do not exist. They are at their end for everybody: none of their keys is left. The
// others exist on all members.
func (l *Lessor) Dead(ctx context.Context, ids []int64) ([]int64, error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	var dead []int64
	for _, id := range ids {
		rec, lives, err := l.sentinel(ctx, id)
		if err != nil {
			return nil, err
		}
		if lives {
			err = l.establish(ctx, id, rec, l.confirm)
			if lives = err == nil || errors.Is(err, errExists); lives {
				continue
			}
			if !errors.Is(err, errGone) {
				return nil, err
			}
		}
		if err := l.clear(ctx, id); err != nil {
			return nil, err
		}
		dead = append(dead, id)
	}
	return dead, nil
}

// clear reaps what is left of a lease that had no sentinel.
func (l *Lessor) clear(ctx context.Context, id int64) error {
	recs, err := l.look(ctx, id, 0)
	if err != nil {
		return err
	}
	var done []int64
	for _, rec := range recs {
		if rec == nil || slices.Contains(done, rec.Grant) {
			continue
		}
		done = append(done, rec.Grant)
		if _, err := l.reap(ctx, grant{id, rec.Grant}); err != nil && !errors.Is(err, errAlive) { // alive: granted since
			return err
		}
	}
	return nil
}

// present returns the grant of a lease that lives, as far as is known here.
func (l *Lessor) present(ctx context.Context, id int64) (record.LeaseRecord, bool, error) {
	if rec, ok := l.book.Living(id); ok {
		return rec, true, nil
	}
	return l.sentinel(ctx, id)
}

// Revoke ends a lease and returns when its keys are deleted, with the revision of that, or 0 if this process deleted none.
// rpctypes.ErrGRPCLeaseNotFound: there is no such lease.
func (l *Lessor) Revoke(ctx context.Context, id int64) (rev int64, err error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	rec, lives, err := l.present(ctx, id)
	for err == nil && lives {
		var stopped bool
		if stopped, err = l.stopTimer(ctx, rec.Grant); err != nil {
			return 0, err
		}
		if stopped {
			return l.end(ctx, grant{id, rec.Grant})
		}
		rec, lives, err = l.sentinel(ctx, id)
	}
	if err == nil {
		err = l.clear(ctx, id)
	}
	if err == nil {
		err = rpctypes.ErrGRPCLeaseNotFound
	}
	return 0, err
}

// end reaps a grant whose timer was stopped.
func (l *Lessor) end(ctx context.Context, g grant) (int64, error) {
	for {
		r, err := l.reap(ctx, g)
		if !errors.Is(err, errAlive) {
			return r.rev, err
		}
		// That was found out before, or the coordinator has lost its data since, and the timer is there again.
		if _, err := l.stopTimer(ctx, g.grant); err != nil {
			return 0, err
		}
	}
}

// TimeToLive returns what is left of a lease, in seconds, its TTL, and its keys, sorted, if they are wanted. -1: there is none, and then
// none of its keys is left.
func (l *Lessor) TimeToLive(ctx context.Context, id int64, withKeys bool) (left, ttl int64, keys [][]byte, err error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	rec, lives, err := l.present(ctx, id)
	for retry := (backoff.Backoff{}); err == nil && lives; {
		resp, err := l.timer(ctx, rec.Grant)
		if err != nil {
			return 0, 0, nil, err
		}
		if resp.TTL >= 0 {
			if withKeys {
				keys, err = l.keys(ctx, id)
			}
			return resp.TTL, rec.TTL, keys, err
		}
		if rec, lives, err = l.sentinel(ctx, id); err != nil {
			return 0, 0, nil, err
		}
		if lives && !retry.Wait(ctx) { // it has run out, and the coordinator has not come to it yet
			return 0, 0, nil, ctx.Err()
		}
	}
	if err == nil {
		err = l.clear(ctx, id)
	}
	return -1, 0, nil, err
}

// keys lists the keys that are attached to a lease.
func (l *Lessor) keys(ctx context.Context, id int64) ([][]byte, error) {
	parts := make([][]Attached, len(l.cfg.Members))
	err := l.eachMember(func(i int) (err error) {
		parts[i], _, err = l.attached(ctx, i, id, nil)
		return err
	})
	var keys [][]byte
	for _, a := range slices.Concat(parts...) {
		keys = append(keys, a.Key)
	}
	slices.SortFunc(keys, slices.Compare)
	return keys, err
}

// Leases lists the leases that live, those first that end first.
func (l *Lessor) Leases(ctx context.Context) ([]int64, error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	grants, err := l.sentinels(ctx, allSentinels())
	if err != nil {
		return nil, err
	}
	resp, err := persist(ctx, func(ctx context.Context) (*pb.LeaseLeasesResponse, error) {
		return l.cfg.Lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	})
	if err != nil {
		return nil, err
	}
	ids := make(map[int64]int64, len(grants))
	for id, g := range grants {
		ids[g] = id
	}
	var list []int64
	for _, t := range resp.Leases { // in the order of their ends
		if id, ok := ids[t.ID]; ok {
			list = append(list, id)
		}
	}
	return list, nil
}
