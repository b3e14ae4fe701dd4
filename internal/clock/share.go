package clock

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/backoff"
	"github.com/metaetcd/metaetcd/internal/lifetime"
)

// batch is a number of calls that share one transaction. It may be joined while it stands in a queue of the clock,
// under the clock's lock; the fields below done are set before done is closed.
type batch struct {
	k       int64 // stamps wanted in all; 0: the calls are reads
	waiters int
	left    []span // stamps whose callers have left
	over    bool   // answered; guarded by the clock's lock, as what is above
	done    chan struct{}

	clock int64 // as the transaction left it
	epoch int64
	err   error
}

// span is a part of a batch's stamps.
type span struct{ offset, k int64 }

// first is the stamp at an offset of a batch that was answered.
func (b *batch) first(offset int64) int64 { return b.clock - b.k + 1 + offset }

// join makes the caller part of the newest batch of a queue that has room for it.
func (c *Clock) join(queue *[]*batch, k int64) (b *batch, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(*queue); n > 0 {
		b = (*queue)[n-1]
		if abandoned(b) {
			b.k, b.left = 0, nil
		}
	}
	if b == nil || b.k+k > MaxTake {
		b = &batch{done: make(chan struct{})}
		*queue = append(*queue, b)
	}
	offset = b.k
	b.k += k
	b.waiters++
	return b, offset
}

// leave ends a caller's waiting. A batch that everybody has left is not sent; of one that is, nobody uses the caller's stamps.
func (c *Clock) leave(ctx context.Context, b *batch, unwanted span) error {
	c.mu.Lock()
	b.waiters--
	b.left = append(b.left, unwanted)
	over, last := b.over, c.lastErr
	c.mu.Unlock()
	if over {
		c.giveUp(b, unwanted)
	}
	if last != nil {
		return fmt.Errorf("metaetcd: waiting for the coordinator: %w (last error: %w)", ctx.Err(), last)
	}
	return fmt.Errorf("metaetcd: waiting for the coordinator: %w", ctx.Err())
}

// answer ends a batch.
func (c *Clock) answer(b *batch, clock, epoch int64, err error) {
	c.mu.Lock()
	b.clock, b.epoch, b.err, b.over = clock, epoch, err, true
	left := b.left
	c.mu.Unlock()
	close(b.done)
	c.giveUp(b, left...)
}

// giveUp passes on stamps of a batch that nobody waits for any more.
func (c *Clock) giveUp(b *batch, unwanted ...span) {
	for _, s := range unwanted {
		if s.k > 0 && b.err == nil && c.cfg.Unused != nil {
			c.cfg.Unused(b.first(s.offset), s.k, b.epoch)
		}
	}
}

// nextAdd takes the batch that has waited longest for an add, and all reads: the add answers them too.
func (c *Clock) nextAdd() []*batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.adds = slices.DeleteFunc(c.adds, abandoned)
	if len(c.adds) == 0 {
		return nil
	}
	bs := append([]*batch{c.adds[0]}, c.reads...)
	c.adds, c.reads = c.adds[1:], nil
	return bs
}

// nextRead takes all reads.
func (c *Clock) nextRead() []*batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	bs := slices.DeleteFunc(c.reads, abandoned)
	c.reads = nil
	return bs
}

func abandoned(b *batch) bool { return b.waiters == 0 }

// putBack returns batches, taken by nextAdd or nextRead, to the head of their queues.
func (c *Clock) putBack(bs []*batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bs[0].k > 0 {
		c.adds = slices.Insert(c.adds, 0, bs[0])
		bs = bs[1:]
	}
	c.reads = slices.Insert(c.reads, 0, bs...)
	lifetime.Wake(c.wakeRead)
}

// serve answers the batches that next returns, one transaction after the other, until the clock is closed.
func (c *Clock) serve(wake <-chan struct{}, next func() []*batch) {
	var retry backoff.Backoff
	for {
		select {
		case <-c.life.Context().Done():
			return
		case <-wake:
		}
		for bs := next(); len(bs) > 0; bs = next() {
			clock, epoch, err := c.add(c.life.Context(), bs[0].k)
			if err != nil && !permanent(err) {
				c.failed(err)
				c.putBack(bs)
				if !retry.Wait(c.life.Context()) {
					return
				}
				continue
			}
			retry.Reset()
			c.answered()
			for _, b := range bs {
				c.answer(b, clock, epoch, err)
			}
		}
	}
}

// failed notes why callers have to wait, and says so once.
func (c *Clock) failed(err error) {
	c.mu.Lock()
	first := c.lastErr == nil
	c.lastErr = err
	c.mu.Unlock()
	if first && !c.life.Over() {
		c.log.Warn("the clock does not answer; trying again", zap.Error(err))
	}
}

func (c *Clock) answered() {
	c.mu.Lock()
	again := c.lastErr != nil
	c.lastErr = nil
	c.mu.Unlock()
	if again {
		c.log.Info("the clock answers again")
	}
}
