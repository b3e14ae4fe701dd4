package engine

import (
	"errors"
	"fmt"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// fail ends the process: the state of the meta cluster contradicts the protocol, and serving on could do harm. The lanes and the lessor
// would not notice by themselves; everything else waits with the life. What is left is for Close.
func (c *Engine) fail(err error) {
	c.logger.Error("client stops", zap.Error(err))
	c.Life.End(fmt.Errorf("metaetcd: client stopped: %w", err))
	c.commit.Stop(wire.Final{Err: c.Life.Cause(), Code: codes.FailedPrecondition})
	c.Leases.Shut()
}

// stopped returns why nothing may be sent to members any more: the process has failed. One that is closed finishes what it began.
func (c *Engine) stopped() error {
	if !c.Life.Over() {
		return nil
	}
	if err := c.Life.Cause(); !errors.Is(err, lifetime.ErrClosed) {
		return wire.Final{Err: err, Code: codes.FailedPrecondition}
	}
	return nil
}

// Close ends the process and returns when nothing of it is left. It is idempotent, and also for a process that has failed or that
// was opened half-way. It waits no longer than a second or two for clusters that do not
// answer. The order:
//
//  1. The life ends: what waits gets its cause, and nothing new begins.
//  2. The lanes take no more operations, those that wait are dismissed, and their stamps are marked.
//  3. The lessor ends. It works through the rooms above, as a user does.
//  4. What runs in the life ends: transactions across members give their locks back or apply their parts, decisions are removed. That
//     may take stamps, and the answers of the lanes.
//  5. The lanes end, when what is in flight has an outcome: its member's answer, or what the feed shows of it. So the feed is there
//     until then.
//  6. The feed ends, and with it watchers, resolvers and streams.
//  7. The clock ends: until here somebody might have asked for the epoch.
//  8. The metrics are unregistered.
func (c *Engine) Close() { c.closing.Do(c.shutDown) }

func (c *Engine) shutDown() {
	c.Life.End(lifetime.ErrClosed)
	if c.commit != nil {
		c.commit.Shut() // who settles an outcome needs the rest of it, and waits in the life
	}
	if c.Leases != nil {
		c.Leases.Close()
	}
	c.Life.Wait()
	if c.commit != nil {
		c.commit.Close()
	}
	if c.Feeds != nil {
		if f := c.Feeds.Now(); f != nil {
			f.Close()
		}
	}
	if c.Clock != nil {
		c.Clock.Close()
	}
	c.Metrics.Unregister()
}
