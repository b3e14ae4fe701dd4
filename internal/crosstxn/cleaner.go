package crosstxn

import (
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// sweepEvery is how long a decision that is done may lie on its primary: many are removed by one request.
const sweepEvery = 100 * time.Millisecond

// decisionCleaner removes the decisions whose parts have all been applied. They are of no use, and do no harm: what is left of them
// when a process dies, the next one that opens removes.
type decisionCleaner struct {
	c *Runner

	mu    sync.Mutex
	done  map[int][]record.TxnID // by primary
	awake bool                   // a sweep is to come
}

func newDecisionCleaner(c *Runner) *decisionCleaner {
	return &decisionCleaner{c: c, done: map[int][]record.TxnID{}}
}

// add takes a decision that is done.
func (s *decisionCleaner) add(h record.Holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[h.Primary] = append(s.done[h.Primary], h.ID)
	if !s.awake {
		s.awake = s.c.Life.Spawn(func() {
			_ = lifetime.Pause(s.c.Life.Context(), sweepEvery)
			s.sweep()
		})
	}
}

func (s *decisionCleaner) sweep() {
	s.mu.Lock()
	done := s.done
	s.done, s.awake = map[int][]record.TxnID{}, false
	s.mu.Unlock()
	for primary, ids := range done {
		for some := range slices.Chunk(ids, translate.Width(s.c.MaxTxnOps)) {
			_ = s.c.insist(s.c.Life.Context(), primary, removeDecisions(some))
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
