package clock

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/hedge"
)

// errDamaged says that the epoch record is there and digits are not.
var errDamaged = errors.New("metaetcd: the coordinator has lost digits of the clock")

// add adds k to the clock (0: only reads it) and returns what it stands at after that: the stamps clock−k+1, …, clock
// are the caller's. When the epoch has ended it moves to the next one, creating it if it has to, and adds there.
//
// An error says that the outcome is unknown. The stamps may be gone, which is harmless: nothing knows them.
func (c *Clock) add(ctx context.Context, k int64) (clock, epoch int64, err error) {
	for {
		in := c.epoch.Load()
		if in == nil {
			return 0, 0, errNotOpen
		}
		a, err := c.ask(ctx, in, k)
		switch {
		case errors.Is(err, errDamaged):
			err = c.discard(ctx, in, "the coordinator has lost a part of the clock")
		case err != nil:
			return 0, 0, err
		case a.found != nil:
			err = c.follow(ctx, in, a.found)
		case a.back(k):
			err = c.discard(ctx, in, "the coordinator's clock went backwards",
				zap.Int64("clock", a.clock-k), zap.Int64("highest_stamp_seen", a.highest))
		default:
			return a.clock, in.rec.Epoch, nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// answer is what the coordinator says to an add.
type answer struct {
	clock   int64
	found   *records // not nil: the coordinator is not in that epoch, nothing was added, and this is what it holds
	highest int64    // stamp that was seen before the add was sent
}

// back reports whether a clock to which k was added stood below a stamp that had been seen before.
func (a answer) back(k int64) bool { return a.clock-k < a.highest }

// ask sends an add, and when it is late another one beside it, as a server that hangs, or has lost its leader, does not answer
// for long. Whoever waits takes the answer that comes first. All attempts are sent after those who wait had come, so any will do.
// The stamps of the others are given up when they turn up, and are gaps otherwise. (For reads, see internal/wire.)
func (c *Clock) ask(ctx context.Context, in *epochState, k int64) (answer, error) {
	req := hedge.Request[answer]{
		Pace: &c.pace, Strays: &c.strays, Passing: func(err error) bool { return !permanent(err) && !errors.Is(err, errDamaged) }, Go: func(f func()) { c.life.Spawn(f) },
		Send: func(ctx context.Context) (answer, error) {
			highest := c.cfg.Highest() // before the add is sent: others take and land higher stamps while it is under way
			start := time.Now()
			clock, found, err := c.addIn(ctx, in, k)
			if err == nil && found == nil {
				c.observe(k, time.Since(start))
			}
			return answer{clock, found, highest}, err
		},
	}
	if k == 0 || c.cfg.Alone {
		return req.Send(ctx)
	}
	req.Stray = func(a answer) {
		if a.found == nil && !a.back(k) && c.cfg.Unused != nil {
			c.cfg.Unused(a.clock-k+1, k, in.rec.Epoch)
		}
	}
	return req.Do(ctx)
}

// addIn adds k within an epoch. If the coordinator is not in that epoch, nothing was added and found is what it holds.
func (c *Clock) addIn(ctx context.Context, in *epochState, k int64) (clock int64, found *records, err error) {
	ops := appendDigitPuts(make([]*pb.RequestOp, 0, digits+1), k)
	resp, err := c.exchange(ctx, &pb.TxnRequest{
		Compare: in.compare,
		Success: append(ops, readDigits),
		Failure: []*pb.RequestOp{readRecords},
	})
	if err != nil {
		if errors.Is(err, rpctypes.ErrGRPCKeyNotFound) {
			err = errDamaged
		}
		return 0, nil, err
	}
	kvs := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs
	if !resp.Succeeded {
		found, err = parseRecords(kvs)
		return 0, found, err
	}
	sum, ok := sumDigits(kvs)
	if !ok {
		return 0, nil, errDamaged
	}
	return in.rec.Base + sum, nil, nil
}

func (c *Clock) observe(k int64, took time.Duration) {
	switch h := c.cfg.Hooks; {
	case k > 0 && h.Added != nil:
		h.Added(k, took)
	case k == 0 && h.Read != nil:
		h.Read(took)
	}
}
