package fencer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// gap is what a fence is to close: everything in an epoch from a missing stamp up to one that is overdue as well.
type gap struct{ epoch, missing, due int64 }

// outcome is what became of an attempt to close a gap.
type outcome struct {
	contested bool // a fence has closed it, or will
	won       bool // this process raised it
	failed    bool // a member does not answer, or its stream does not deliver
	away      bool // and that not because this process is slow
	took      time.Duration
}

// streamsWithin is how long streams may take to show what the members have answered.
const streamsWithin = 2 * time.Second

// rest is how long a failed attempt is left alone.
const rest = 50 * time.Millisecond

var (
	// errNoAnswer says that there was no answer.
	errNoAnswer = errors.New("a member does not answer")
	// errAway says that besides the member's stream stood still.
	errAway = fmt.Errorf("%w: it is away", errNoAnswer)
	// errEpoch says that a member works in another epoch.
	errEpoch = errors.New("a member is in another epoch")
)

// resolve closes a gap beside the fencer's goroutine, but not before a time.
func (f *Fencer) resolve(ctx context.Context, g gap, notBefore time.Time) {
	done := make(chan outcome, 1)
	f.busy = done
	wait, within := f.vote.wait(), f.within()
	go func() { done <- f.attempt(ctx, g, notBefore, wait, within) }()
}

// within is how long a member may take to answer.
func (f *Fencer) within() time.Duration {
	return min(max(answerWithin, 4*f.vote.took, 2*f.Grace()), answerWithinMost)
}

// finding is what a probe has found.
type finding struct {
	away bool // a member does not answer, and its stream stands still
	sure bool // and others answer in half the time: that is not this process, or the machine
	took time.Duration
}

// probe looks whether a member is away, as long as a reader waits to know: it may be long until a gap is overdue.
func (f *Fencer) probe(ctx context.Context) {
	f.mu.Lock()
	wanted := len(f.readers) > 0 && !f.stuck
	f.mu.Unlock()
	if !wanted || f.probed != nil {
		return
	}
	done := make(chan finding, 1)
	f.probed = done
	epoch, within, closed := f.epoch, min(max(answerWithin, 4*f.vote.took), answerWithinMost), f.cfg.Log.Closed()
	if f.suspected {
		within = min(2*within, answerWithinMost)
	}
	go func() {
		again := time.NewTimer(answerWithin)
		defer again.Stop()
		begun := time.Now()
		var answers atomic.Int64 // that came in half the time
		_, err := f.each(ctx, gap{epoch: epoch}, within, all, func(ctx context.Context, i int) (Fence, error) {
			fence, err := f.lookAt(ctx, i)
			if err == nil && time.Since(begun) < within/2 {
				answers.Add(1)
			}
			return fence, err
		})
		p := finding{took: time.Since(begun)}
		if p.away = errors.Is(err, errAway) && f.cfg.Log.Closed() == closed; p.away {
			p.took, p.sure = 0, answers.Load() > 0
			done <- p
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
		done <- p
	}()
}

// found learns from a probe. What may be due to this process being slow has to be found twice, and with more
// patience.
func (f *Fencer) found(p finding) {
	if p.took > 0 {
		f.vote.requested(p.took)
	}
	if p.away && (p.sure || f.suspected) {
		f.setStuck(true)
	}
	f.suspected = p.away
}

func all(int) bool { return true }

func (f *Fencer) lookAt(ctx context.Context, i int) (Fence, error) { return f.cfg.Members[i].Look(ctx) }

// resolved learns from an attempt.
func (f *Fencer) resolved(now time.Time, o outcome) {
	if o.failed {
		f.rested = now.Add(rest)
	}
	if o.contested {
		f.vote.over(o.won)
	}
	if o.took > 0 {
		f.vote.requested(o.took)
	}
	if o.away {
		f.setStuck(true)
	}
}

// attempt closes a gap, not before a time, and after a wait in which another process may have done it. Members may take so long
// to answer.
func (f *Fencer) attempt(ctx context.Context, g gap, notBefore time.Time, wait, within time.Duration) (o outcome) {
	if !pause(ctx, wait) {
		return o
	}
	if f.over(g, &o) {
		return o
	}
	begun := time.Now()
	fences, err := f.each(ctx, g, within, all, f.lookAt)
	took := time.Since(begun)
	if err != nil {
		if o.failed, o.away = true, errors.Is(err, errAway); !o.away {
			o.took = took // at least
		}
		return o
	}
	o.took = took
	// What had landed when the fences were read, the streams show now.
	if !f.reached(ctx, fences) {
		o.failed, o.away = true, true
		return o
	}
	if !pause(ctx, time.Until(notBefore)) || f.over(g, &o) || f.cfg.Holds(g.missing) {
		return o
	}
	lower := func(i int) bool { return fences[i].Fence < g.due }
	var won atomic.Bool
	raised, err := f.each(ctx, g, within, lower, func(ctx context.Context, i int) (Fence, error) {
		r, err := f.cfg.Members[i].Raise(ctx, g.epoch, g.due)
		if err == nil && r.Raised {
			won.Store(true)
			if f.cfg.OnRaise != nil {
				f.cfg.OnRaise()
			}
		}
		return r, err
	})
	o.contested, o.won = true, won.Load()
	o.away = errors.Is(err, errAway) || err == nil && !f.reached(ctx, raised)
	o.failed = o.away || err != nil
	return o
}

// pause waits. False: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// over reports whether a gap is closed, and notes whether a fence did that.
func (f *Fencer) over(g gap, o *outcome) bool {
	missing, _, _ := f.cfg.Log.Gap()
	if missing == g.missing && f.cfg.Epoch() == g.epoch {
		return false
	}
	o.contested = f.cfg.Log.FencedUpTo() >= g.missing
	return true
}

// each asks the chosen members at once. It fails if one does not answer within a time, or works in another epoch than the gap's.
// With errAway one is away; otherwise, it may be all but away, or this process slow.
func (f *Fencer) each(
	ctx context.Context, g gap, within time.Duration, chosen func(i int) bool, ask func(ctx context.Context, i int) (Fence, error),
) ([]Fence, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	fences := make([]Fence, len(f.cfg.Members))
	for i := range f.cfg.Members {
		if !chosen(i) {
			continue
		}
		wg.Go(func() {
			before := f.cfg.Members[i].Position()
			fence, err := ask(ctx, i)
			switch {
			case err != nil:
				if f.cfg.OnError != nil {
					f.cfg.OnError(i, err)
				}
				if err = errNoAnswer; f.cfg.Members[i].Position() == before {
					err = errAway
				}
			case fence.Epoch != g.epoch:
				f.cfg.Sync(ctx)
				err = errEpoch
			}
			mu.Lock()
			defer mu.Unlock()
			fences[i] = fence
			if failed == nil || errors.Is(err, errAway) {
				failed = err
			}
		})
	}
	wg.Wait()
	return fences, failed
}

// reached waits until the members' streams show what the members were asked for. They may take longer than the members
// themselves: this process may be slow.
func (f *Fencer) reached(ctx context.Context, fences []Fence) bool {
	ctx, cancel := context.WithTimeout(ctx, streamsWithin)
	defer cancel()
	for i, fence := range fences {
		if f.cfg.Members[i].WaitReached(ctx, fence.Rev) != nil {
			return false
		}
	}
	return true
}
