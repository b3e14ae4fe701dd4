package metaetcd

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/latch"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// sweepEvery is how long a decision that is done may lie on its primary: many are removed by one request.
const sweepEvery = 100 * time.Millisecond

// sweeper removes the decisions whose parts have all been applied. They are of no use, and do no harm: what is left of them
// when a process dies, the next one that opens removes.
type sweeper struct {
	c *core

	mu    sync.Mutex
	done  map[int][]record.TxnID // by primary
	awake bool                   // a sweep is to come
}

func newSweeper(c *core) *sweeper { return &sweeper{c: c, done: map[int][]record.TxnID{}} }

// add takes a decision that is done.
func (s *sweeper) add(h record.Holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[h.Primary] = append(s.done[h.Primary], h.ID)
	if !s.awake {
		s.awake = s.c.spawn(func() {
			_ = pause(s.c.ctx, sweepEvery)
			s.sweep()
		})
	}
}

func (s *sweeper) sweep() {
	s.mu.Lock()
	done := s.done
	s.done, s.awake = map[int][]record.TxnID{}, false
	s.mu.Unlock()
	for primary, ids := range done {
		for some := range slices.Chunk(ids, translate.Width(s.c.cfg.MemberTxnOps)) {
			_ = s.c.insist(s.c.ctx, primary, removeDecisions(some))
		}
	}
}

func removeDecisions(ids []record.TxnID) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for _, id := range ids {
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: record.TxnKey(id)},
		}})
	}
	return req
}

// applyAll applies the parts of a decided transaction, each at its member. It tries until ctx ends. The latches, which may be
// nil, are released on each member when its part is applied; or was refused once, so that who has latches on other members does not hold
// these until this one is back.
func (c *core) applyAll(ctx context.Context, parts []record.DecidedPart, latches *latch.Held) error {
	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	for i, p := range parts {
		wg.Go(func() {
			errs[i] = c.applyPart(ctx, p, func() { latches.ReleaseClaim(1 + i) }) // the primary's is the first
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
