package clock

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

// compactBehind compacts the coordinator in the background when it has come CompactEvery revisions further: the
// history of a clock is worth nothing. Every process does it; those that come late get an error, which is fine.
func (c *Clock) compactBehind(rev int64) {
	if !c.compactionDue(rev) {
		return
	}
	c.life.Spawn(func() {
		ctx, cancel := context.WithTimeout(c.life.Context(), rpcTimeout)
		defer cancel()
		_, err := c.cfg.Coordinator.Compact(ctx, &pb.CompactionRequest{Revision: rev})
		if err != nil && !c.life.Over() && !errors.Is(err, rpctypes.ErrGRPCCompacted) { // another process was faster
			c.log.Warn("the coordinator was not compacted", zap.Int64("revision", rev), zap.Error(err))
		}
	})
}

func (c *Clock) compactionDue(rev int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.compacted == 0 || rev < c.compacted: // first contact, or a wiped coordinator
		c.compacted = rev
		return false
	case rev < c.compacted+c.cfg.CompactEvery:
		return false
	}
	c.compacted = rev
	return true
}
