package crosstxn

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// lock locks the primary's share, and then the others. The order matters: who finds a lock, and nothing of it on the primary,
// knows that it cannot be decided any more. If somebody else holds something, all is given back before it is waited for.
func (x *crossing) lock(ctx context.Context, f *feed.Feed) error {
	err := x.lockShare(ctx, f, 0)
	if err == nil {
		var others errgroup.Group // none is cancelled: what became of a request would be unknown
		if slices.ContainsFunc(x.shares, func(s translate.Share) bool { return s.Whole }) {
			others.SetLimit(1) // see reserveMember
		}
		for i := 1; i < len(x.shares); i++ {
			others.Go(func() error { return x.lockShare(ctx, f, i) })
		}
		err = others.Wait()
	}
	held, ok := errors.AsType[*heldError](err)
	if !ok {
		return err
	}
	x.giveBack() //nolint:contextcheck // as above
	x.runner.cfg.OnLockWait()
	return x.wait(ctx, f, held)
}

// heldError says that a share is held by somebody else, at the member's revision rev.
type heldError struct {
	share *translate.Share
	rev   int64
}

func (e *heldError) Error() string { return "somebody else holds a lock" }

// wait waits until what was held is free; the transaction starts over then.
func (x *crossing) wait(ctx context.Context, f *feed.Feed, held *heldError) error {
	ctx, cancel := context.WithTimeout(ctx, 2*feed.MaxPatience)
	defer cancel()
	var err error
	if s := held.share; s.Whole {
		err = f.Log.WaitAllUnlocked(ctx, s.Member, held.rev)
	} else {
		err = f.Log.WaitUnlocked(ctx, s.Member, held.rev, s.Slots...)
	}
	switch {
	case ctx.Err() != nil:
		return errAway // or the one who holds it cannot reach it
	case err != nil && !f.Over():
		return err
	}
	return errAgain // also when compaction has overtaken the log: there will be another one
}

// lockShare locks one share. It fails with a *heldError if somebody else has some of it.
func (x *crossing) lockShare(ctx context.Context, f *feed.Feed, i int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s := &x.shares[i]
	l, err := x.ask(s, s.Lock(x.epoch, x.holder), s.DecodeLock) //nolint:contextcheck // as above
	if err == nil && l.Refused && s.Whole && !l.Held {
		l, err = x.reserveMember(ctx, f, i)
	}
	if err != nil {
		return err
	}
	if l.Refused {
		return &heldError{s, l.MemberRev}
	}
	x.locked[i] = l
	if s.Apart {
		return x.readApart(ctx, s, l)
	}
	return nil
}

// readApart reads what a share is evaluated on, when it is locked.
func (x *crossing) readApart(ctx context.Context, s *translate.Share, l *translate.Locked) error {
	m := x.runner.cfg.Members[s.Member]
	var all []*pb.RangeResponse
	for some := range slices.Chunk(s.ReadsAt(l.MemberRev), translate.Width(x.runner.cfg.MaxTxnOps)) {
		txn := &pb.TxnRequest{}
		for _, r := range some {
			txn.Success = append(txn.Success, request.Range(r))
		}
		once, cancel := context.WithTimeout(ctx, x.runner.cfg.Timeout)
		resp, err := m.Txn(once, txn)
		cancel()
		switch {
		case errors.Is(err, rpctypes.ErrGRPCCompacted):
			return errAgain
		case commit.Definite(err):
			return err
		case err != nil:
			return errAway
		}
		for _, r := range resp.Responses {
			all = append(all, r.GetResponseRange())
		}
	}
	return s.FillReads(l, all)
}

// reserveFor bounds how long a whole member is held while its slots are waited for, and reserveForMost where landings are slow: nobody
// else writes there meanwhile, and the slots may wait for another member, which is away.
const (
	reserveFor     = 250 * time.Millisecond
	reserveForMost = time.Second
)

// reserveMember locks a whole member of which slots are locked, and waits for them, but not for long. Only such transactions wait while
// they hold something, and they lock in the order of the members, so nobody waits in a circle.
func (x *crossing) reserveMember(ctx context.Context, f *feed.Feed, i int) (*translate.Locked, error) {
	s := &x.shares[i]
	l, err := x.ask(s, s.Claim(x.epoch, x.holder), s.DecodeClaim) //nolint:contextcheck // as above
	waiting, cancel := context.WithTimeout(ctx, min(max(reserveFor, 2*f.Grace()), reserveForMost))
	defer cancel()
	for err == nil && !l.Refused {
		x.locked[i] = l
		if err := f.Log.WaitSlotsUnlocked(waiting, s.Member, l.MemberRev); err != nil {
			switch {
			case f.Over():
				err = errAgain
			case ctx.Err() == nil && waiting.Err() != nil:
				err = &heldError{s, l.MemberRev}
			}
			return nil, err
		}
		read, err := x.ask(s, s.Read(x.epoch, x.holder), s.DecodeRead) //nolint:contextcheck // as above
		if err != nil || !read.Refused {
			return read, err
		}
		if !read.Held || read.Holder.ID != x.holder.ID {
			x.lost()
			return nil, errAgain
		}
		l.MemberRev = read.MemberRev
	}
	return l, err
}

// ask sends a request for locks. If it cannot be known what became of it, the locks are left to the resolvers.
func (x *crossing) ask(s *translate.Share, req *pb.TxnRequest, decode func(epoch int64, resp *pb.TxnResponse) (*translate.Locked, error)) (*translate.Locked, error) {
	ctx, cancel := x.runner.cfg.Life.Lingering(x.runner.cfg.Timeout, member.Linger)
	defer cancel()
	m := x.runner.cfg.Members[s.Member]
	resp, err := m.Send(ctx, req)
	if err != nil {
		if commit.Definite(err) || commit.OutOfSpace(err) { // nothing that comes back by itself
			return nil, err
		}
		if wire.IsUnfit(err) {
			x.runner.apart.Store(true)
			return nil, errAway
		}
		m.NoteAway()
		return nil, errAway
	}
	l, err := decode(x.epoch, resp)
	if errors.As(err, new(*translate.WrongEpochError)) {
		if _, err := x.runner.cfg.Clock.Sync(x.runner.cfg.Life.Context()); err != nil {
			return nil, err
		}
		return nil, errAgain
	}
	return l, err
}

// lost makes others more patient in the next attempt: they took the transaction for that of a writer that had gone.
func (x *crossing) lost() { x.patience = min(2*x.patience, feed.MaxPatience) }

// abandon ends an attempt that was not decided.
func (x *crossing) abandon() {
	x.giveBack()
	x.runner.open.Delete(x.holder.ID)
}

// giveBack unlocks what the attempt has locked. What it cannot unlock now the resolvers will find.
func (x *crossing) giveBack() {
	ctx, cancel := x.runner.cfg.Life.Lingering(x.runner.cfg.Timeout, member.Linger)
	defer cancel()
	var wg sync.WaitGroup
	for i, l := range x.locked {
		if l == nil {
			continue
		}
		x.locked[i] = nil
		s := &x.shares[i]
		wg.Go(func() { _, _ = x.runner.cfg.Members[s.Member].Send(ctx, s.Unlock(x.holder, l)) })
	}
	wg.Wait()
}
