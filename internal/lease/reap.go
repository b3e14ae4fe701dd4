package lease

import (
	"context"
	"errors"
	"slices"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/record"
)

// reaped is what a process did of a reap.
type reaped struct {
	rev    int64 // of the last of its deletes, or 0
	buried bool  // it has removed a record
}

// reap brings a grant that has died to its end, and returns when nothing of it is left. errAlive: it has not died. Callers
// in this process share the work, which goes on when they leave.
func (l *Lessor) reap(ctx context.Context, g grant) (reaped, error) {
	type result struct {
		reaped
		err error
	}
	done := make(chan result, 1)
	l.life.Spawn(func() { //nolint:contextcheck // it goes on when its callers have left
		r, err, _ := l.dying.Do(strconv.FormatInt(g.grant, 16), func() (any, error) { return l.reapAlone(l.life.Context(), g) })
		done <- result{r.(reaped), err}
	})
	select {
	case r := <-done:
		return r.reaped, r.err
	case <-ctx.Done(): // at the latest with the lessor
		return reaped{}, ctx.Err()
	}
}

func (l *Lessor) reapAlone(ctx context.Context, g grant) (all reaped, err error) {
	for retry := (backoff.Backoff{}); ; {
		r, err := l.reapOnce(ctx, g)
		all.rev, all.buried = max(all.rev, r.rev), all.buried || r.buried
		switch {
		case errors.Is(err, errEpoch):
			if err := l.sync(ctx); err != nil {
				return all, err
			}
		case errors.Is(err, errMoved), errors.Is(err, errHeld):
			if !retry.Wait(ctx) {
				return all, ctx.Err()
			}
		default:
			if err == nil && all.buried && l.cfg.OnReaped != nil {
				l.cfg.OnReaped()
			}
			return all, err
		}
	}
}

// reapOnce makes one attempt. errMoved: there is more to do.
func (l *Lessor) reapOnce(ctx context.Context, g grant) (r reaped, err error) {
	epoch, holds := l.cfg.Clock.Present()
	recs, err := l.look(ctx, g.id, g.grant)
	if err != nil {
		return r, err
	}
	known := slices.DeleteFunc(slices.Clone(recs), func(r *record.LeaseRecord) bool { return r == nil })
	if len(known) == 0 {
		return r, nil
	}
	if !slices.ContainsFunc(known, func(r *record.LeaseRecord) bool { return r.Dead }) {
		if err := l.hasDied(ctx, holds, g); err != nil {
			return r, err
		}
	}
	if err := l.kill(ctx, epoch, g.id, recs); err != nil {
		return r, err
	}
	dead := *known[0]
	dead.Dead = true
	if r.rev, err = l.empty(ctx, g.id, recs, dead); err != nil {
		return r, err
	}
	r.buried, err = l.bury(ctx, g.id, dead)
	return r, err
}

// hasDied returns nil if the coordinator, in the epoch in which the compares hold, has no sentinel of the grant.
func (l *Lessor) hasDied(ctx context.Context, holds []*pb.Compare, g grant) error {
	s, there, err := l.sentinelIn(ctx, holds, g.id)
	if err == nil && there && s.Grant == g.grant {
		err = errAlive
	}
	return err
}

// empty deletes the keys that are attached to a lease that is dead on all members that have a record of it. It returns the last
// revision of that, or 0.
func (l *Lessor) empty(ctx context.Context, id int64, recs []*record.LeaseRecord, dead record.LeaseRecord) (int64, error) {
	parts := make([][]Attached, len(recs))
	err := l.eachMember(func(i int) error {
		if recs[i] == nil {
			return nil
		}
		keys, stale, err := l.attached(ctx, i, id, &dead)
		if err != nil {
			return err
		}
		parts[i] = keys
		return l.drop(ctx, i, id, dead, stale)
	})
	keys := slices.Concat(parts...)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	return l.cfg.Delete(ctx, keys)
}
