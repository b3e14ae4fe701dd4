package crosstxn

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// rollForward applies the parts of a decided transaction and removes the decision. Every step may be repeated, by anybody. It
// tries until ctx ends.
func (r *Runner) rollForward(ctx context.Context, h record.Holder, d record.Decision) error {
	if err := r.applyAll(ctx, d.Parts, func(int) {}); err != nil {
		return err
	}
	primary, err := r.cfg.Ring.Member(h.Primary)
	if err != nil {
		return err
	}
	return r.insist(ctx, primary, removeDecisions([]record.TxnID{h.ID}))
}

// applyAll applies the parts of a decided transaction, each at its member, those of one member in their order. It tries until ctx
// ends. It calls over, once or more often, for each member when the last part is applied there; or one was refused, so that who
// has latches on other members does not hold these until this one is back.
func (r *Runner) applyAll(ctx context.Context, parts []record.DecidedPart, over func(member int)) error {
	of := map[int][]record.DecidedPart{}
	for _, p := range parts {
		m, err := r.cfg.Ring.Member(p.Member)
		if err != nil {
			return err
		}
		of[m] = append(of[m], p)
	}
	var g errgroup.Group // none is cancelled: the parts are decided
	for member, parts := range of {
		g.Go(func() error {
			for i, p := range parts {
				err := r.applyPart(ctx, member, p, func(err error) {
					if err != nil || i == len(parts)-1 {
						over(member)
					}
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *Runner) applyPart(ctx context.Context, member int, p record.DecidedPart, tried func(error)) error {
	req := &pb.TxnRequest{}
	if err := proto.Unmarshal(p.Txn, req); err != nil {
		return err
	}
	return r.insist(ctx, member, req, tried)
}

// insist sends a request until the member answers it: one that may be sent any number of times. It calls tried after every
// attempt, with the attempt's error.
func (r *Runner) insist(ctx context.Context, at int, req *pb.TxnRequest, tried ...func(error)) error {
	m := r.cfg.Members[at]
	for warned := false; ; {
		sending, cancel := r.cfg.Life.Lingering(r.cfg.Timeout, member.Linger)
		_, err := m.Send(sending, req) //nolint:contextcheck // what is under way is finished
		cancel()
		for _, f := range tried {
			f(err)
		}
		if err == nil {
			return nil
		}
		m.NoteAway()
		if refused := commit.Definite(err) || commit.OutOfSpace(err); refused && !warned {
			warned = true
			r.cfg.Logger.Warn("a member refuses a part of a decided transaction; the closed revision stands still until it does not", zap.String("member", m.Name), zap.Error(err))
		}
		r.cfg.Logger.Debug("a member did not take a decided part; trying again", zap.String("member", m.Name), zap.Error(err))
		if lifetime.Pause(ctx, member.AwayRetry) != nil {
			return err
		}
	}
}

// FinishDecided applies what was decided at or below the stamp now, before a feed starts there. The caller has fenced every
// member at now: no more of that can be decided. The streams may have begun behind some of the parts, so that they would wait for
// these for ever. It returns when the streams have passed all of them, or with the error of a member, ctx or the log.
func (r *Runner) FinishDecided(ctx context.Context, f *feed.Feed, now int64) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range r.cfg.Members {
		g.Go(func() error {
			decided, err := member.Persist(gctx, m.ReadDecided)
			for id, d := range decided {
				if err == nil && d.Stamp <= now {
					err = r.rollForward(gctx, record.Holder{ID: id, Primary: r.cfg.Ring.Number(m.Index)}, d)
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, m := range r.cfg.Members {
		g.Go(func() error {
			rev, err := member.Persist(gctx, m.Revision)
			if err != nil {
				return wire.Name(m.Name, err)
			}
			return m.NotReached(rev, f.Log.WaitReached(gctx, m.Index, rev))
		})
	}
	return g.Wait()
}
