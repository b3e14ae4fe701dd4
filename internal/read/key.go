package read

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/fencer"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// fencedReadAfter is how long a linearizable read of one key waits at least for the closed revision before it asks the key's member
// alone, because another member, which is away, holds the revision up. That is a write to the key's slot: merely slow landings
// are waited for.
const fencedReadAfter = 250 * time.Millisecond

// readKey serves a linearizable read of one key. It reads at the revision that is closed already while the clock is asked: where
// nobody writes, that is the answer. When the closed revision is held up, the key's member is asked alone.
func (r *Reader) readKey(ctx context.Context, f *feed.Feed, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	reading := r.cfg.Clock.StartRead()
	early, resp := f.Log.Closed(), (*pb.RangeResponse)(nil)
	guessed := early >= r.cfg.Feeds.Told() && r.guesses.worthIt()
	if guessed {
		resp, _ = r.rangeAt(ctx, f, req, early, nil)
	}
	target, epoch, err := reading.Wait(ctx) // as long as it takes: a fenced read needs the clock as well
	if err != nil {
		return nil, err
	}
	wait, cancel := f.Fencer.WhileMoving(ctx, fencedReadAfter)
	at, err := r.reach(wait, f, target, epoch)
	stuck := errors.Is(context.Cause(wait), fencer.ErrStuck)
	cancel()
	switch {
	case err != nil && stuck:
		return r.fencedRead(ctx, req)
	case err != nil:
		return nil, err
	}
	if guessed {
		r.guesses.was(at == early)
	}
	if resp == nil || at != early {
		if resp, err = r.rangeAt(ctx, f, req, at, nil); err != nil {
			return nil, err
		}
	}
	resp.Header = r.cfg.Feeds.Header()
	resp.Header.Revision = at
	return resp, nil
}

// guesses decides whether reads are worth a request that may be for nothing. The zero value is ready to use.
type guesses struct{ rest atomic.Int32 }

// guessRest is how many reads do not guess after a guess was wrong.
const guessRest = 32

func (g *guesses) worthIt() bool { return g.rest.Load() <= 0 || g.rest.Add(-1) < 0 }

func (g *guesses) was(right bool) {
	if !right {
		g.rest.Store(guessRest)
	}
}

// fencedRead reads one key with a stamp of its own, from its member alone: it goes on while another member
// holds up the closed revision.
func (r *Reader) fencedRead(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	member := r.cfg.Ring.MemberOf(req.Key)
	for {
		if _, err := r.cfg.Feeds.AwaitUnlocked(ctx, r.cfg.Ring, member, false, req.Key); err != nil {
			return nil, err
		}
		res, err := r.cfg.Commit.Do(ctx, member, &commit.Op{
			Keys: [][]byte{req.Key}, Size: len(req.Key),
			Build: func(stamp int64, mark int) (*translate.Guarded, error) {
				return translate.Read(req.Key, stamp, mark, r.cfg.Ring.Slot), nil
			},
		})
		if errors.Is(err, commit.ErrUnknown) { // nothing was to be written: it is free to be asked again
			if r.cfg.Life.Over() {
				return nil, r.cfg.Life.Cause()
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if !res.Outcome.Landed || res.Settled { // a settled read has lost its answer: it is free to be asked again
			continue
		}
		var part snapshot.Part
		if rs := res.Outcome.Results; len(rs) > 0 {
			part.Kvs, part.Count = rs[0].Range.Kvs, rs[0].Range.Count
		}
		resp, err := snapshot.Merge(req, []snapshot.Part{part})
		if err != nil {
			return nil, err
		}
		r.cfg.OnFencedRead()
		r.cfg.Feeds.Tell(res.Stamp)
		resp.Header = r.cfg.Feeds.Header()
		resp.Header.Revision = res.Stamp
		return resp, nil
	}
}
