package crosstxn

import (
	"context"
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// decide lands the primary's part, with the decision that makes the others sure.
func (x *crossing) decide(locked *translate.Cross, run *translate.Run) (*translate.Decided, error) {
	for {
		s, err := x.runner.cfg.Commit.Take(x.runner.cfg.Life.Context())
		if err != nil {
			return nil, err
		}
		d, err := locked.Decide(run, x.holder, s.Rev, s.Epoch, x.runner.cfg.Feeds.Closed())
		if err != nil {
			x.runner.cfg.Commit.Surrender(s)
			return nil, err
		}
		err = x.send(d, s)
		switch {
		case err == nil:
			return d, nil
		case errors.Is(err, translate.ErrStale):
		case errors.As(err, new(*translate.WrongEpochError)):
			if _, err := x.runner.cfg.Clock.Sync(x.runner.cfg.Life.Context()); err != nil {
				return nil, err
			}
		case errors.Is(err, translate.ErrLost):
			x.lost()
			return nil, errAgain
		default:
			return nil, err
		}
	}
}

// send sends the decision, and finds out what became of it.
func (x *crossing) send(d *translate.Decided, s commit.Stamp) error {
	primary := x.primary()
	x.runner.cfg.Doubts.Track(primary, s.Epoch, mergedlog.Sent{Stamp: s.Rev, Txn: d.Txn})
	defer x.runner.cfg.Doubts.Untrack(primary, s.Epoch, s.Rev)
	ctx, cancel := x.runner.cfg.Life.Lingering(x.runner.cfg.Timeout, member.Linger)
	resp, err := x.runner.cfg.Members[primary].Send(ctx, d.Txn)
	cancel()
	if err == nil {
		x.runner.cfg.Commit.Landed(s)
		return d.Decode(resp)
	}
	out, err := x.runner.cfg.Commit.Settle(primary, s, err)
	switch {
	case errors.Is(err, commit.ErrUnknown):
		x.runner.cfg.Commit.Landed(s)
		x.locked = nil // nobody knows whether it is decided: the resolvers find out
		return err
	case err != nil:
		x.runner.cfg.Commit.Surrender(s)
		return err
	}
	x.runner.cfg.Commit.Landed(s)
	switch {
	case out.Kind == mergedlog.Landed:
		return nil
	case out.Kind == mergedlog.Dead, out.Reason == manifest.Fenced:
		return translate.ErrStale
	}
	return translate.ErrLost
}

// finish has the other parts applied while the writer is answered already.
func (x *crossing) finish(d *translate.Decided) {
	x.runner.cfg.OnDecided()
	holder, held := x.holder, x.held
	x.held = nil
	over := func(member int) {
		held.ReleaseClaim(slices.IndexFunc(x.claims, func(c latch.Claim) bool { return c.Member == member }))
	}
	if !slices.ContainsFunc(d.Parts, func(p record.DecidedPart) bool { return p.Member == holder.Primary }) {
		over(x.primary()) // its part has landed
	}
	apply := func() {
		if len(d.Parts) > 0 && x.runner.applyAll(x.runner.cfg.Life.Context(), d.Parts, over) == nil {
			x.runner.cleaner.add(x.primary(), holder.ID)
		}
		held.Release()
		x.runner.open.Delete(holder.ID)
	}
	if len(d.Parts) == 0 || !x.runner.cfg.Life.Spawn(apply) {
		apply()
	}
}

func (x *crossing) answer(ctx context.Context, run *translate.Run, d *translate.Decided) (*pb.TxnResponse, error) {
	results := d.Results
	if run.Reads || run.TellsPrevious() {
		var err error
		if results, err = x.runner.cfg.Reads.Replay(ctx, run, d.Stamp); err != nil {
			return nil, err
		}
	}
	return x.runner.cfg.Reads.Landed(x.plan, run, d.Stamp, results), nil
}
