package commit

import (
	"context"
	"errors"
	"slices"
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

// resendAfter is how long surrendered stamps rest that no member would mark.
const resendAfter = 100 * time.Millisecond

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
	alone     *Op         // the exclusive operation
	parts     [][]boarded // of a batch that the server refused: what is still to be sent, last first

	stalled bool             // guarded by the lane's lock
	below   map[int]struct{} // see needsLocked; guarded like stalled
}

// build makes the picked operations' parts of the request. Whatever cannot travel goes back or ends; waits: some
// operation went back until another flight has landed.
func (f *flight) build(picked []*Op) (waits bool) {
	l, limit := f.l, f.l.p.cfg.MaxTxnOps
	costliest := 0
	var back []*Op
	wanted := map[int]struct{}{} // slot clocks that those set: who needs them too does not pass
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
		switch n := len(f.ops); {
		case !translate.Fits(1, g.Cost(), limit):
			f.give(op, rpctypes.ErrGRPCTooManyOps)
		case l.passed(g):
			f.give(op, translate.ErrStale)
		case translate.Fits(n+1, c, limit) && disjoint(wanted, g.Below) && l.claim(f, g):
			costliest = c
			f.ops = append(f.ops, boarded{op, g})
		default:
			back = append(back, op)
			for _, s := range g.Slots {
				wanted[s] = struct{}{}
			}
		}
	}
	if len(back) > 0 {
		l.putBack(back)
	}
	return len(back) > 0
}

func disjoint(a map[int]struct{}, b []int) bool {
	return len(a) == 0 || !slices.ContainsFunc(b, func(s int) bool {
		_, ok := a[s]
		return ok
	})
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
	var given []stamp
	l.mu.Lock()
	l.freeKeys(op)
	if errors.Is(err, translate.ErrStale) {
		given = l.requeueLocked([]*Op{op})
	} else {
		given = l.unstampLocked([]*Op{op})
		op.finish(Result{Err: err})
	}
	l.mu.Unlock()
	l.p.surrender(l.index, given...)
	wake(l.wakeTake)
}

// stamps completes numbers to stamps of the flight's epoch.
func (f *flight) stamps(numbers ...int64) []stamp {
	ss := make([]stamp, len(numbers))
	for i, n := range numbers {
		ss[i] = stamp{n, f.epoch}
	}
	return ss
}

// giveUp surrenders stamps of the flight.
func (f *flight) giveUp(index int, numbers ...int64) {
	f.l.p.surrender(index, f.stamps(numbers...)...)
}

// fly sends the flight and delivers every outcome. It occupies its place in the lane until all of them are known.
func (f *flight) fly() {
	left := time.Now()
	stalled := make(chan struct{})
	timer := time.AfterFunc(stallAfter, func() {
		defer close(stalled)
		f.stall()
	})
	if f.exclusive != nil {
		f.sendAlone()
	} else {
		f.parts = [][]boarded{f.ops}
		for n := 1; n > 0; n = len(f.parts) {
			ops := f.parts[n-1]
			f.parts = f.parts[:n-1]
			f.send(ops)
		}
	}
	if !timer.Stop() {
		<-stalled
	}
	f.land(time.Since(left))
}

// stall tells the lane that the flight is overdue. Once.
func (f *flight) stall() {
	l := f.l
	var given []stamp
	l.mu.Lock()
	if !f.stalled {
		f.stalled = true
		given = l.stallLocked()
	}
	l.mu.Unlock()
	l.p.surrender(l.index+1, given...)
}

// land frees the flight's place, after it was out for a while.
func (f *flight) land(took time.Duration) {
	l := f.l
	l.mu.Lock()
	l.flights--
	l.landed, l.took = time.Now(), took
	l.want = len(f.ops) + len(l.stamped) + len(l.queue)
	l.inAir = slices.DeleteFunc(l.inAir, func(x *flight) bool { return x == f })
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

// send sends operations in one member transaction, with the surrendered stamps that are not sent yet.
func (f *flight) send(ops []boarded) {
	p, surrender := f.l.p, f.surrender
	f.surrender = nil
	b := translate.Batch{Epoch: f.epoch, Surrender: surrender, Ops: make([]*translate.Guarded, len(ops))}
	for i, o := range ops {
		b.Ops[i] = o.guarded
	}
	p.cfg.Doubts.Track(f.l.index, f.epoch, sentOf(ops)...)
	b.Together = f.l.together() && b.CanTogether(p.cfg.MaxTxnOps)
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
		if len(outs) > 0 && outs[0].Together {
			f.l.beCareful()
		}
		f.deliver(ops, func(i int) Result { return Result{Outcome: outs[i]} })
	case errors.As(err, &wrong):
		f.sync()
		f.deliver(ops, refused)
	case OutOfSpace(err):
		f.lookBack(ops, err)
		f.giveUp(f.l.index+1, surrender...)
	case !definite(err):
		f.stall()
		f.giveUp(f.l.index+1, surrender...) // they may have their mark; a second one does no harm
		f.takeBack()
		f.settle(ops, err)
	case len(ops) > 1:
		// The error is some operation's own, and does not say whose. Nothing landed, so the stamps may be sent again.
		f.surrender = surrender
		f.parts = append(f.parts, ops[len(ops)/2:], ops[:len(ops)/2])
	default:
		f.deliver(ops, func(int) Result { return Result{Err: err} })
		if len(ops) == 0 {
			f.pause(resendAfter)
		}
		f.giveUp(f.l.index+1, append(stampsOf(ops), surrender...)...)
	}
}

// takeBack sends the operations back that were not sent yet: their stamps would wait for the outcome of those that were.
func (f *flight) takeBack() {
	l := f.l
	var ops []*Op
	var numbers []int64
	l.mu.Lock()
	for _, part := range slices.Backward(f.parts) {
		for _, o := range part {
			l.freeLocked(o)
			ops, numbers = append(ops, o.Op), append(numbers, o.stamp)
		}
	}
	f.parts = nil
	given := l.requeueLocked(ops)
	l.mu.Unlock()
	l.p.cfg.Doubts.Untrack(l.index, f.epoch, numbers...)
	l.p.surrender(l.index+1, given...)
}

func (f *flight) sendAlone() {
	ops := []boarded{{Op: f.alone, guarded: &translate.Guarded{}}}
	f.l.p.cfg.Doubts.Track(f.l.index, f.epoch, mergedlog.Sent{Stamp: f.alone.stamp, Txn: f.exclusive.Txn})
	resp, err := f.txn(f.exclusive.Txn)
	var out translate.Outcome
	if err == nil {
		out, err = f.exclusive.Decode(resp)
	}
	var wrong *translate.WrongEpochError
	switch {
	case err == nil:
		f.deliver(ops, func(int) Result { return Result{Outcome: out} })
	case errors.As(err, &wrong):
		f.sync()
		f.deliver(ops, refused)
	case OutOfSpace(err):
		f.lookBack(ops, err)
	case !definite(err):
		f.stall()
		f.settle(ops, err)
	default:
		f.deliver(ops, func(int) Result { return Result{Err: err} })
		f.giveUp(f.l.index+1, f.alone.stamp)
	}
}

func (f *flight) txn(req *pb.TxnRequest) (*pb.TxnResponse, error) {
	for {
		ctx, cancel := context.WithTimeout(f.l.p.ctx, f.l.p.cfg.Timeout)
		resp, err := f.l.member.Txn(ctx, req)
		cancel()
		if err == nil || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests) {
			return resp, err
		}
		if !f.pause(10 * time.Millisecond) {
			return nil, f.l.p.ctx.Err()
		}
	}
}

// OutOfSpace reports whether the server answered that it is out of space. It may have applied the request all the same:
// the first request over the quota is applied, and then refused.
func OutOfSpace(err error) bool {
	return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace)
}

// lookBack finds out what became of operations that the server has decided, without saying so: its log up to its present
// revision shows their marks, or they did not land. (A fence, which settle needs, is a put, and there is no space for it.)
func (f *flight) lookBack(ops []boarded, cause error) {
	if len(ops) == 0 {
		f.pause(resendAfter)
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

// decided returns what has become of a stamp by now; Kind 0: nothing.
func (f *flight) decided(stamp int64) (mergedlog.Outcome, error) {
	for {
		out, err := f.seen(stamp)
		if err == nil || final(err) || !f.pause(resendAfter) {
			return out, err
		}
	}
}

// seen returns what the log shows of a stamp, when it has seen all that the member has committed by now.
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

// final reports whether an error of Doubts stays.
func final(err error) bool {
	return errors.Is(err, mergedlog.ErrUntracked) || errors.Is(err, mergedlog.ErrForgotten)
}

// Definite reports whether an error of a request says that the server refused it: nothing of it landed. ResourceExhausted by
// a full disk does not say so, see OutOfSpace.
func Definite(err error) bool { return definite(err) && !OutOfSpace(err) }

// TooLarge reports whether an error says that a request has more bytes than the server takes.
func TooLarge(err error) bool {
	return errors.Is(err, rpctypes.ErrGRPCRequestTooLarge) || status.Code(err) == codes.ResourceExhausted && !OutOfSpace(err)
}

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

func stampsOf(ops []boarded) []int64 {
	out := make([]int64, len(ops))
	for i, o := range ops {
		out[i] = o.stamp
	}
	return out
}

// sentOf are the operations as Doubts know them.
func sentOf(ops []boarded) []mergedlog.Sent {
	out := make([]mergedlog.Sent, len(ops))
	for i, o := range ops {
		out[i] = mergedlog.Sent{Stamp: o.stamp, Txn: o.guarded.Txn}
	}
	return out
}

// refused is the result of operations that left nothing, in another epoch.
func refused(int) Result { return Result{Outcome: translate.Outcome{Fenced: true}} }

// deliver tells operations their outcomes, frees what they held in the lane and ends them.
func (f *flight) deliver(ops []boarded, result func(i int) Result) {
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

// settled is the result of an operation whose outcome the log has told, or could not tell.
func (f *flight) settled(out mergedlog.Outcome, err error) Result {
	if err != nil {
		return Result{Err: f.l.p.unknown(err)}
	}
	landed := out.Kind == mergedlog.Landed
	return Result{Settled: true, Outcome: translate.Outcome{Landed: landed, MemberRev: out.Rev, Fenced: !landed}}
}

// settle reads the outcomes off the member's log after the member's answer was lost. Until the log shows them, it raises
// the fence: then they show up, or can never land.
func (f *flight) settle(ops []boarded, cause error) {
	if len(ops) == 0 {
		f.pause(resendAfter)
		return
	}
	p := f.l.p
	p.cfg.Logger.Info("settling a member transaction whose answer was lost", zap.String("member", f.l.member.Name), zap.Int("operations", len(ops)), zap.Error(cause))
	var high int64
	for _, o := range ops {
		high = max(high, o.stamp)
	}
	for i := range ops {
		r := f.settled(f.outcome(ops[i].stamp, high))
		f.deliver(ops[i:i+1], func(int) Result { return r })
	}
}

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
