package commit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// Settle finds out from a member's log what became of a stamp that was sent to the member, if the error of the request, err, does not
// say. The stamp must be tracked in the doubts. Settle fails with err itself if nothing landed, and then the caller surrenders the stamp;
// with ErrUnknown if the outcome can no longer be found out.
func (p *Pipeline) Settle(member int, s Stamp, err error) (mergedlog.Outcome, error) {
	if Definite(err) {
		return mergedlog.Outcome{}, err
	}
	f := &flight{l: p.lanes[member], epoch: s.Epoch}
	find := func() (mergedlog.Outcome, error) { return f.outcome(s.Rev, s.Rev) }
	if OutOfSpace(err) {
		find = func() (mergedlog.Outcome, error) { return f.decided(s.Rev) }
	}
	out, lost := find()
	switch {
	case lost != nil:
		return out, p.unknown(lost)
	case out.Kind == 0:
		return out, err
	}
	return out, nil
}

// unknown is the error of an operation whose outcome could not be found out.
func (p *Pipeline) unknown(err error) error {
	if why := p.ended(); why != nil && p.ctx.Err() != nil {
		return fmt.Errorf("%w: %s", ErrUnknown, why.Error()) // it is not ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// lookBack finds out what became of operations that the server has decided without saying how: its log up to its present revision
// shows their marks, or they did not land. settle cannot do it, as a fence is a put, and the server has no space for it.
func (f *flight) lookBack(ops []built, cause error) {
	if len(ops) == 0 {
		_ = lifetime.Pause(f.l.p.ctx, resendAfter)
		return
	}
	for i := range ops {
		out, err := f.decided(ops[i].stamp)
		r := f.settled(out, err)
		if err == nil && out.Kind == 0 {
			r = Result{Err: cause}
			f.giveUp(f.l.index+1, ops[i].stamp)
		}
		f.deliver(ops[i:i+1], func(int) Result { return r })
	}
}

// decided returns what has become of a stamp by now. Kind is 0 if it has left nothing.
func (f *flight) decided(stamp int64) (mergedlog.Outcome, error) {
	for {
		out, err := f.seen(stamp)
		if err == nil || final(err) || lifetime.Pause(f.l.p.ctx, resendAfter) != nil {
			return out, err
		}
	}
}

// seen returns what the log shows of a stamp once the log has all that the member has committed by now.
func (f *flight) seen(stamp int64) (mergedlog.Outcome, error) {
	p := f.l.p
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
	defer cancel()
	rev, err := f.l.member.Present(ctx)
	if err != nil {
		return mergedlog.Outcome{}, err
	}
	return p.cfg.Doubts.Seen(ctx, f.l.index, f.epoch, stamp, rev)
}

// final reports whether Doubts will give the same error again.
func final(err error) bool {
	return errors.Is(err, mergedlog.ErrUntracked) || errors.Is(err, mergedlog.ErrForgotten)
}

// stampsOf are the numbers of the operations' stamps.
func stampsOf(ops []built) []int64 {
	out := make([]int64, len(ops))
	for i, o := range ops {
		out[i] = o.stamp
	}
	return out
}

// refused is the result of operations that landed nothing because the member is in another epoch.
func refused(int) Result { return Result{Outcome: translate.Outcome{Fenced: true}} }

// deliver tells operations their outcomes, frees what they hold in the lane and ends them.
func (f *flight) deliver(ops []built, result func(i int) Result) {
	l := f.l
	stamps := stampsOf(ops)
	for i, o := range ops {
		if r := result(i); r.Err == nil {
			if o.Learn != nil {
				o.Learn(o.stamp, r.Outcome)
			}
			if h := l.p.cfg.OnRefusal; h != nil && !r.Outcome.Landed {
				h(l.index, r.Outcome.Fenced)
			}
		}
	}
	l.p.cfg.Doubts.Untrack(l.index, f.epoch, stamps...)
	l.p.release(f.stamps(stamps...)...)
	l.mu.Lock()
	for _, o := range ops {
		l.freeLocked(o)
	}
	l.mu.Unlock()
	for i, o := range ops {
		r := result(i)
		r.Stamp, r.Epoch = o.stamp, f.epoch
		o.finish(r)
	}
}

// settled is the result of an operation whose outcome was read off the log, or err if it could not be.
func (f *flight) settled(out mergedlog.Outcome, err error) Result {
	if err != nil {
		return Result{Err: f.l.p.unknown(err)}
	}
	landed := out.Kind == mergedlog.Landed
	return Result{Settled: true, Outcome: translate.Outcome{
		Landed: landed, MemberRev: out.Rev,
		// Whether a fence or a guard refused one that has left nothing, nobody knows: what it was built on may not have held.
		Fenced: !landed && out.Reason == manifest.Fenced,
	}}
}

// settle reads the outcomes off the member's log after the member's answer was lost. It raises the member's fence until the log shows
// them: behind the fence, what has not landed never will.
func (f *flight) settle(ops []built, cause error) {
	if len(ops) == 0 {
		_ = lifetime.Pause(f.l.p.ctx, resendAfter)
		return
	}
	p := f.l.p
	level := zap.InfoLevel
	if len(ops) == 1 && ops[0].ctx.Err() != nil {
		level = zap.DebugLevel // its caller has gone, and may have cancelled it
	}
	p.cfg.Logger.Log(level, "settling a member transaction whose answer was lost", zap.String("member", f.l.member.Name), zap.Int("operations", len(ops)), zap.Error(cause))
	var high int64
	for _, o := range ops {
		high = max(high, o.stamp)
	}
	for i := range ops {
		r := f.settled(f.outcome(ops[i].stamp, high))
		f.deliver(ops[i:i+1], func(int) Result { return r })
	}
}

// outcome waits until the log shows what became of a stamp, and raises the fence to high meanwhile.
func (f *flight) outcome(stamp, high int64) (mergedlog.Outcome, error) {
	p := f.l.p
	for {
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Grace())
		out, err := p.cfg.Doubts.Outcome(ctx, f.l.index, f.epoch, stamp)
		cancel()
		if err == nil || final(err) || p.ctx.Err() != nil {
			return out, err
		}
		rctx, rcancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
		if err := f.l.member.Raise(rctx, f.epoch, high); err != nil {
			_ = lifetime.Pause(f.l.p.ctx, 50*time.Millisecond)
		}
		rcancel()
	}
}
