package commit

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// stallAfter is how long a flight may be out before its lane counts as stalled.
const stallAfter = time.Second

// boarded is an operation with its part of the request.
type boarded struct {
	*Op
	guarded *translate.Guarded
}

// flight is one member transaction: a batch with surrendered stamps, or one exclusive operation.
type flight struct {
	l         *lane
	epoch     int64
	ops       []boarded
	surrender []int64
	exclusive *translate.Exclusive
	alone     *Op // the exclusive operation

	// Guarded by the lane's lock.
	stalled, over bool
}

// build makes the picked operations' parts of the request. Whatever cannot travel goes back or ends; waits: some
// operation went back until another flight has landed.
func (f *flight) build(picked []*Op) (waits bool) {
	l, limit := f.l, f.l.p.cfg.MaxTxnOps
	costliest := 0
	var back []*Op
	for i, op := range picked {
		if err := op.ctx.Err(); err != nil {
			f.give(op, err)
			continue
		}
		if op.epoch < l.p.cfg.Clock.Epoch() {
			f.give(op, translate.ErrStale)
			continue
		}
		if op.exclusive() {
			f.buildExclusive(op)
			continue
		}
		g, err := op.Build(op.stamp, i)
		if err != nil {
			f.give(op, err)
			continue
		}
		c := max(costliest, g.Cost())
		switch n := len(f.ops) + len(f.surrender); {
		case !translate.Fits(1, g.Cost(), limit):
			f.give(op, rpctypes.ErrGRPCTooManyOps)
		case translate.Fits(n+1, c, limit) && l.claim(g.Slots):
			costliest = c
			f.ops = append(f.ops, boarded{op, g})
		default:
			back = append(back, op)
		}
	}
	if len(back) > 0 {
		l.putBack(back)
	}
	return len(back) > 0
}

func (f *flight) buildExclusive(op *Op) {
	x, err := op.Exclude(op.stamp, op.epoch)
	if err == nil && x.Cost() > f.l.p.cfg.MaxTxnOps {
		err = rpctypes.ErrGRPCTooManyOps
	}
	if err != nil {
		f.give(op, err)
		return
	}
	f.exclusive, f.alone = x, op
	f.giveUp(f.l.index, f.surrender...) // it travels alone
	f.surrender = nil
}

// give takes an operation off the flight, and gives up its stamp. With translate.ErrStale it gets another stamp, any other
// error ends it.
func (f *flight) give(op *Op, err error) {
	l := f.l
	stale := errors.Is(err, translate.ErrStale)
	f.giveUp(l.index, op.stamp)
	l.mu.Lock()
	l.freeKeys(op)
	if op.exclusive() {
		l.alone = false
	}
	if stale {
		l.queue = append([]*Op{op}, l.queue...)
	}
	l.mu.Unlock()
	if !stale {
		op.finish(Result{Err: err})
	}
	wake(l.wakeTake)
}

func (f *flight) giveUp(index int, stamps ...int64) {
	ss := make([]stamp, len(stamps))
	for i, n := range stamps {
		ss[i] = stamp{n, f.epoch}
	}
	f.l.p.surrender(index, ss...)
}

// fly sends the flight and delivers every outcome. It occupies its place in the lane until all of them are known.
func (f *flight) fly() {
	timer := time.AfterFunc(stallAfter, f.stall)
	if f.exclusive != nil {
		f.sendAlone()
	} else {
		f.send(f.ops, f.surrender)
	}
	timer.Stop()
	f.land()
}

// stall tells the lane that the flight is overdue. Once.
func (f *flight) stall() {
	l := f.l
	l.mu.Lock()
	first := !f.stalled && !f.over
	if first {
		f.stalled = true
		l.stalled++
	}
	l.mu.Unlock()
	if first {
		l.giveUpStamps()
	}
}

// land frees the flight's place.
func (f *flight) land() {
	l := f.l
	l.mu.Lock()
	l.flights--
	f.over = true
	if f.alone != nil {
		l.alone = false
	}
	recovered := false
	if f.stalled {
		l.stalled--
		recovered = l.stalled == 0
	}
	l.mu.Unlock()
	if recovered {
		l.p.surrender(l.index, l.p.found()...)
	}
	wake(l.wakeTake)
	wake(l.wakeSend)
}

func (f *flight) send(ops []boarded, surrender []int64) {
	p := f.l.p
	b := translate.Batch{Epoch: f.epoch, Surrender: surrender, Ops: make([]*translate.Guarded, len(ops))}
	for i, o := range ops {
		b.Ops[i] = o.guarded
		p.cfg.Log.Track(f.l.index, f.epoch, o.stamp)
	}
	if h := p.cfg.OnBatch; h != nil {
		h(f.l.index, len(ops))
	}
	resp, err := f.txn(b.Request())
	var outs []translate.Outcome
	if err == nil {
		outs, err = b.Decode(resp)
	}
	var wrong *translate.WrongEpochError
	switch {
	case err == nil:
		for i, o := range ops {
			f.deliver(o.Op, o.guarded.Slots, Result{Outcome: outs[i]})
		}
	case errors.As(err, &wrong):
		f.sync()
		for _, o := range ops {
			f.deliver(o.Op, o.guarded.Slots, Result{Outcome: translate.Outcome{Fenced: true}})
		}
	case !definite(err):
		f.settle(ops, err)
	case len(ops) > 1:
		// The error is some operation's own, and does not say whose. Nothing landed, so the stamps may be sent again.
		f.send(ops[:len(ops)/2], surrender)
		f.send(ops[len(ops)/2:], nil)
	default:
		f.giveUp(f.l.index+1, surrender...)
		for _, o := range ops {
			f.giveUp(f.l.index+1, o.stamp)
			f.deliver(o.Op, o.guarded.Slots, Result{Err: err})
		}
	}
}

func (f *flight) sendAlone() {
	f.l.p.cfg.Log.Track(f.l.index, f.epoch, f.alone.stamp)
	resp, err := f.txn(f.exclusive.Txn)
	var out translate.Outcome
	if err == nil {
		out, err = f.exclusive.Decode(resp)
	}
	var wrong *translate.WrongEpochError
	switch {
	case err == nil:
		f.deliver(f.alone, nil, Result{Outcome: out})
	case errors.As(err, &wrong):
		f.sync()
		f.deliver(f.alone, nil, Result{Outcome: translate.Outcome{Fenced: true}})
	case !definite(err):
		f.settle([]boarded{{Op: f.alone, guarded: &translate.Guarded{}}}, err)
	default:
		f.giveUp(f.l.index+1, f.alone.stamp)
		f.deliver(f.alone, nil, Result{Err: err})
	}
}

func (f *flight) txn(req *pb.TxnRequest) (*pb.TxnResponse, error) {
	for {
		ctx, cancel := context.WithTimeout(f.l.p.ctx, f.l.p.cfg.Timeout)
		resp, err := f.l.member.Txn(ctx, req)
		cancel()
		if !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
			return resp, err
		}
		if !f.pause(10 * time.Millisecond) {
			return nil, f.l.p.ctx.Err()
		}
	}
}

// definite reports whether the server refused the request: nothing of it landed.
func definite(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated:
		return true
	}
	return false
}

// sync catches up with the epoch that a member reported.
func (f *flight) sync() {
	if _, err := f.l.p.cfg.Clock.Sync(f.l.p.ctx); err != nil && f.l.p.ctx.Err() == nil {
		f.l.p.cfg.Logger.Warn("could not read the clock's epoch", zap.String("member", f.l.member.Name), zap.Error(err))
	}
}

// deliver tells an operation its outcome, frees what it held in the lane and ends it.
func (f *flight) deliver(op *Op, slots []int, r Result) {
	l := f.l
	r.Stamp, r.Epoch = op.stamp, f.epoch
	if r.Err == nil && op.Learn != nil {
		op.Learn(op.stamp, r.Outcome)
	}
	if h := l.p.cfg.OnRefusal; h != nil && r.Err == nil && !r.Outcome.Landed {
		h(l.index, r.Outcome.Fenced)
	}
	l.p.cfg.Log.Untrack(l.index, f.epoch, op.stamp)
	l.p.release(op.stamp)
	l.mu.Lock()
	l.freeKeys(op)
	for _, s := range slots {
		delete(l.busySlots, s)
	}
	l.mu.Unlock()
	op.finish(r)
}

// settle reads the outcomes off the member's log after the member's answer was lost. Until the log shows them, it raises
// the fence: then they show up, or can never land.
func (f *flight) settle(ops []boarded, cause error) {
	f.stall()
	p := f.l.p
	p.cfg.Logger.Info("settling a member transaction whose answer was lost", zap.String("member", f.l.member.Name), zap.Int("operations", len(ops)), zap.Error(cause))
	var high int64
	for _, o := range ops {
		high = max(high, o.stamp)
	}
	for _, o := range ops {
		out, err := f.outcome(o.stamp, high)
		if err != nil {
			f.deliver(o.Op, o.guarded.Slots, Result{Err: fmt.Errorf("%w: %w", ErrUnknown, err)})
			continue
		}
		r := Result{Settled: true, Outcome: translate.Outcome{Landed: out.Kind == mergedlog.Landed, MemberRev: out.Rev, Fenced: true}}
		f.deliver(o.Op, o.guarded.Slots, r)
	}
}

func (f *flight) outcome(stamp, high int64) (mergedlog.Outcome, error) {
	p := f.l.p
	for {
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Grace())
		out, err := p.cfg.Log.Outcome(ctx, f.l.index, f.epoch, stamp)
		cancel()
		if err == nil {
			return out, nil
		}
		if p.ctx.Err() != nil {
			return mergedlog.Outcome{}, err
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return mergedlog.Outcome{}, err // the log has ended
		}
		rctx, rcancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
		if err := f.l.member.Raise(rctx, f.epoch, high); err != nil {
			f.pause(50 * time.Millisecond)
		}
		rcancel()
	}
}

// pause waits, unless the pipeline is closed meanwhile.
func (f *flight) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.l.p.ctx.Done():
		return false
	}
}
