package metaetcd

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

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

// applyAll applies the parts of a decided transaction, each at its member, those of one member in their order. It tries until ctx
// ends. It calls over, once or more often, for each member when the last part is applied there; or one was refused, so that who
// has latches on other members does not hold these until this one is back.
func (c *core) applyAll(ctx context.Context, parts []record.DecidedPart, over func(member int)) error {
	of := map[int][]record.DecidedPart{}
	for _, p := range parts {
		of[p.Member] = append(of[p.Member], p)
	}
	var g errgroup.Group // none is cancelled: the parts are decided
	for member, parts := range of {
		g.Go(func() error {
			for i, p := range parts {
				err := c.applyPart(ctx, p, func(err error) {
					if err != nil || i == len(parts)-1 {
						over(member)
					}
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
