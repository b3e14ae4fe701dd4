package metaetcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/record"
)

// minGrace is how long a missing stamp may take, in quiet times, before it is fenced off.
const minGrace = fencer.MinGrace

// manyWaiting is how many events above the closed revision are too many to look at: somebody will want one of them.
const manyWaiting = 1024

// newFencer has the stamps resolved that are missing while somebody in this process waits for them (section 6.1).
func newFencer(f *feed) *fencer.Fencer {
	cfg := fencer.Config{
		Log: f.log, Epoch: f.c.clock.Epoch, Holds: func(stamp int64) bool { return f.c.commit.Holds(stamp) },
		Sync: func(ctx context.Context) { _, _ = f.c.clock.Sync(ctx) },
		Wanted: func() bool {
			callers, keys := f.log.Waiting(manyWaiting)
			return callers || len(keys) == manyWaiting || f.hub.Wants(keys)
		},
		OnRaise: f.c.metrics.fences.Inc,
		OnError: func(i int, err error) {
			f.c.cfg.Logger.Debug("a member's fence could not be looked at, or raised", zap.String("member", f.c.members[i].name), zap.Error(err))
		},
	}
	for _, m := range f.c.members {
		cfg.Members = append(cfg.Members, fencer.Member{
			Look: m.lookAtFence,
			Raise: func(ctx context.Context, epoch, rev int64) (fencer.Fence, error) {
				return f.raiseFence(ctx, m, epoch, rev)
			},
			WaitReached: func(ctx context.Context, rev int64) error { return f.log.WaitReached(ctx, m.index, rev) },
			Position:    func() int64 { return f.log.Position(m.index).Rev },
		})
	}
	return fencer.New(cfg)
}

// raiseFence raises a member's fence to rev in an epoch, and tells the log what it is then.
func (f *feed) raiseFence(ctx context.Context, m *member, epoch, rev int64) (fencer.Fence, error) {
	r, err := m.raise(ctx, epoch, rev)
	if err == nil && r.epoch == epoch {
		f.log.FenceHolds(m.index, r.epoch, r.fence, r.rev)
	}
	return fencer.Fence{Epoch: r.epoch, Fence: r.fence, Rev: r.rev}, err
}

// lookAtFence reads the member's fence, linearizably. It costs no proposal, unlike a raise that is not needed.
func (m *member) lookAtFence(ctx context.Context) (fencer.Fence, error) {
	ctx, cancel := m.whileOpen(ctx)
	defer cancel()
	resp, err := m.kv.Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyFence)})
	m.seen(m.index, "range", err)
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
