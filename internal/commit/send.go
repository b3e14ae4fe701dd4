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

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// stallAfter is how long a flight may be out before its lane counts as stalled.
const stallAfter = time.Second

// resendAfter is how long a flight waits before it passes on surrendered stamps that its member did not mark.
const resendAfter = 100 * time.Millisecond

// stamps makes stamps of the flight's epoch of their numbers.
func (f *flight) stamps(numbers ...int64) []Stamp {
	ss := make([]Stamp, len(numbers))
	for i, n := range numbers {
		ss[i] = Stamp{n, f.epoch}
	}
	return ss
}

// giveUp surrenders stamps of the flight to the first lane from index on that works.
func (f *flight) giveUp(index int, numbers ...int64) {
	f.l.p.surrender(index, f.stamps(numbers...)...)
}

// fly sends the flight and delivers every outcome. The flight keeps its place in the lane until all outcomes are known.
func (f *flight) fly() {
	f.watch()
	if f.exclusive != nil {
		f.sendAlone()
	} else {
		f.parts = [][]built{f.ops}
		for n := 1; n > 0; n = len(f.parts) {
			ops := f.parts[n-1]
			f.parts = f.parts[:n-1]
			f.conclude(f.ask(f.l.p.ctx, ops))
		}
	}
	f.land()
}

// watch makes the lane stall if the flight has not landed when it is overdue.
func (f *flight) watch() {
	f.lateHandled = make(chan struct{})
	f.late = time.AfterFunc(stallAfter, func() {
		defer close(f.lateHandled)
		f.stall()
	})
}

// stall tells the lane, once, that the flight is overdue.
func (f *flight) stall() {
	l := f.l
	var given []Stamp
	l.mu.Lock()
	if !f.stalled {
		f.stalled = true
		given = l.stallLocked()
	}
	l.mu.Unlock()
	l.p.surrender(l.index+1, given...)
}

// land frees the flight's place in the lane.
func (f *flight) land() {
	if !f.late.Stop() {
		<-f.lateHandled
	}
	l := f.l
	l.mu.Lock()
	l.flights--
	if !f.light {
		l.laden--
		l.crowd = len(f.ops) + len(l.stamped) + len(l.queue)
	}
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
	l.wake()
}

// reply is what came of a part of a flight that was sent.
type reply struct {
	ops       []built
	surrender []int64
	outs      []translate.Outcome
	refused   *translate.Batch // as a whole: its stamps are to be marked; nil: it was not
	err       error
}

// ask sends operations and the surrendered stamps that are not sent yet in one member transaction. When ctx ends, the outcome is open.
func (f *flight) ask(ctx context.Context, ops []built) reply {
	p, surrender := f.l.p, f.surrender
	f.surrender = nil
	b := translate.Batch{Epoch: f.epoch, Closed: p.cfg.Closed(), Surrender: surrender, Ops: make([]*translate.Guarded, len(ops))}
	for i, o := range ops {
		b.Ops[i] = o.guarded
	}
	p.cfg.Doubts.Track(f.l.index, f.epoch, sentOf(ops)...)
	b.Together = f.l.together() && b.CanTogether(p.cfg.MaxTxnOps)
	if h := p.cfg.OnBatch; h != nil {
		h(f.l.index, len(ops))
	}
	resp, err := f.txn(ctx, b.Request())
	r := reply{ops: ops, surrender: surrender, err: err}
	if err == nil {
		var marks bool
		if r.outs, marks, r.err = b.Decode(resp); marks {
			r.refused = &b
		}
	}
	return r
}

// conclude delivers the outcomes. If the member refused a part because of one operation, its halves become parts of the flight.
func (f *flight) conclude(r reply) {
	ops, surrender, err := r.ops, r.surrender, r.err
	var wrong *translate.WrongEpochError
	switch {
	case err == nil:
		if len(r.outs) > 0 && r.outs[0].Together {
			f.l.beCareful()
		}
		if r.refused != nil {
			f.mark(r.refused, r.outs)
		}
		f.deliver(ops, func(i int) Result { return Result{Outcome: r.outs[i]} })
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
			_ = lifetime.Pause(f.l.p.ctx, resendAfter)
		}
		f.giveUp(f.l.index+1, append(stampsOf(ops), surrender...)...)
	}
}

// mark marks the stamps of a batch that was refused as a whole: it has left nothing on the member. The refusal is certain, so that
// any lane may carry what this one cannot mark.
func (f *flight) mark(b *translate.Batch, outs []translate.Outcome) {
	limit := f.l.p.cfg.MaxTxnOps
	resp, err := f.txn(f.l.p.ctx, b.Mark(outs, limit))
	if err == nil {
		err = b.DecodeMark(outs, limit, resp)
	}
	switch {
	case err == nil:
	case errors.As(err, new(*translate.WrongEpochError)):
		f.sync() // the stamps are dead
	default:
		stamps := slices.Clone(b.Surrender)
		for _, op := range b.Ops {
			stamps = append(stamps, op.Stamp)
		}
		f.giveUp(f.l.index+1, stamps...)
	}
}

// takeBack puts the operations that were not sent yet back into the queue: their stamps would wait for the outcome of the others.
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
	ops := []built{{Op: f.alone, guarded: &translate.Guarded{}}}
	f.l.p.cfg.Doubts.Track(f.l.index, f.epoch, mergedlog.Sent{Stamp: f.alone.stamp, Txn: f.exclusive.Txn})
	resp, err := f.txn(f.l.p.ctx, f.exclusive.Txn)
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

// txn sends a request, again if the server was too busy to look at it.
func (f *flight) txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	for {
		sent, cancel := context.WithTimeout(ctx, f.l.p.cfg.Timeout)
		resp, err := f.l.member.Txn(sent, req)
		cancel()
		if err == nil || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests) {
			return resp, err
		}
		if lifetime.Pause(ctx, 10*time.Millisecond) != nil {
			if err := f.l.p.ctx.Err(); err != nil {
				return nil, err
			}
			return nil, err // nothing of it was applied, and its caller has gone
		}
	}
}

// OutOfSpace reports whether the server answered that it is out of space. It may have applied the request all the same:
// the first request over the quota is applied, and then refused.
func OutOfSpace(err error) bool {
	return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace)
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

// sentOf are the operations as Doubts know them.
func sentOf(ops []built) []mergedlog.Sent {
	out := make([]mergedlog.Sent, len(ops))
	for i, o := range ops {
		out[i] = mergedlog.Sent{Stamp: o.stamp, Txn: o.guarded.Txn}
	}
	return out
}
