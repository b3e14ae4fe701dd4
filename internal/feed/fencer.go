package feed

import (
	"context"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/member"
)

// MinGrace is how long a missing stamp may take, in quiet times, before it is fenced off.
const MinGrace = fencer.MinGrace

// manyWaiting is how many events above the closed revision are too many to look at: somebody will want one of them.
const manyWaiting = 1024

// newFencer has the stamps resolved that are missing while somebody in this process waits for them.
func newFencer(f *Feed) *fencer.Fencer {
	cfg := fencer.Config{
		Log: f.Log, Epoch: f.cfg.Clock.Epoch, Holds: func(stamp int64) bool { return f.cfg.Holds(stamp) },
		Sync: func(ctx context.Context) { _, _ = f.cfg.Clock.Sync(ctx) },
		Wanted: func() bool {
			callers, keys := f.Log.Waiting(manyWaiting)
			return callers || len(keys) == manyWaiting || f.hub.Wants(keys)
		},
		OnRaise: f.cfg.OnFence,
		OnError: func(i int, err error) {
			f.cfg.Logger.Debug("a member's fence could not be looked at, or raised", zap.String("member", f.cfg.Members[i].Name), zap.Error(err))
		},
	}
	for _, m := range f.cfg.Members {
		cfg.Members = append(cfg.Members, fencer.Member{
			Look: m.LookAtFence,
			Raise: func(ctx context.Context, epoch, rev int64) (fencer.Fence, error) {
				return f.RaiseFence(ctx, m, epoch, rev)
			},
			WaitReached: func(ctx context.Context, rev int64) error { return f.Log.WaitReached(ctx, m.Index, rev) },
			Position:    func() int64 { return f.Log.Position(m.Index).Rev },
		})
	}
	return fencer.New(cfg)
}

// RaiseFence raises a member's fence to rev in an epoch, and tells the log what it is then.
func (f *Feed) RaiseFence(ctx context.Context, m *member.Member, epoch, rev int64) (fencer.Fence, error) {
	r, err := m.Raise(ctx, epoch, rev)
	if err == nil && r.Epoch == epoch {
		f.Log.FenceHolds(m.Index, r.Epoch, r.Fence, r.Rev)
	}
	return fencer.Fence{Epoch: r.Epoch, Fence: r.Fence, Rev: r.Rev, Raised: r.Now}, err
}
