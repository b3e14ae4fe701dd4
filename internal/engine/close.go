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
func (e *Engine) fail(err error) {
	e.logger.Error("client stops", zap.Error(err))
	e.Life.End(fmt.Errorf("metaetcd: client stopped: %w", err))
	e.commit.Stop(wire.Final{Err: e.Life.Cause(), Code: codes.FailedPrecondition})
	e.Leases.Shut()
}

// stopped returns why nothing may be sent to members any more: the process has failed. One that is closed finishes what it began.
func (e *Engine) stopped() error {
	if !e.Life.Over() {
		return nil
	}
	if err := e.Life.Cause(); !errors.Is(err, lifetime.ErrClosed) {
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
//  8. The connections that were made to single servers of members are closed, and the metrics unregistered.
func (e *Engine) Close() { e.closing.Do(e.shutDown) }

func (e *Engine) shutDown() {
	e.Life.End(lifetime.ErrClosed)
	if e.commit != nil {
		e.commit.Shut() // who settles an outcome needs the rest of it, and waits in the life
	}
	if e.Leases != nil {
		e.Leases.Close()
	}
	e.Life.Wait()
	if e.commit != nil {
		e.commit.Close()
	}
	if e.Feeds != nil {
		if f := e.Feeds.Now(); f != nil {
			f.Close()
		}
	}
	if e.Clock != nil {
		e.Clock.Close()
	}
	for _, s := range e.servers {
		s.Close()
	}
	e.Metrics.Unregister()
}
