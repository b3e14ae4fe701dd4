package crosstxn

import (
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// sweepEvery is how long a decision that is done may lie on its primary: many are removed by one request.
const sweepEvery = 100 * time.Millisecond

// decisionCleaner removes decisions whose parts have all been taken. They are of no use and do no harm: those that are left when a
// process dies, the next one that opens removes. One sweep is to come while there is anything to do, and what it cannot remove it
// keeps asking for, so that nothing is forgotten while the process lives. Safe for concurrent use.
type decisionCleaner struct {
	runner *Runner

	mu    sync.Mutex
	done  map[int][]record.TxnID // by primary
	awake bool                   // a sweep is to come
}

func newDecisionCleaner(r *Runner) *decisionCleaner {
	return &decisionCleaner{runner: r, done: map[int][]record.TxnID{}}
}

// add takes a decision that is done.
func (s *decisionCleaner) add(primary int, id record.TxnID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[primary] = append(s.done[primary], id)
	if !s.awake {
		s.awake = s.runner.cfg.Life.Spawn(func() {
			_ = lifetime.Pause(s.runner.cfg.Life.Context(), sweepEvery)
			s.sweep()
		})
	}
}

// sweep removes what is done, also when the process is over: then every request is sent once.
func (s *decisionCleaner) sweep() {
	s.mu.Lock()
	done := s.done
	s.done, s.awake = map[int][]record.TxnID{}, false
	s.mu.Unlock()
	for primary, ids := range done {
		for some := range slices.Chunk(ids, translate.Width(s.runner.cfg.MaxTxnOps)) {
			_ = s.runner.insist(s.runner.cfg.Life.Context(), primary, removeDecisions(some))
		}
	}
}

func removeDecisions(ids []record.TxnID) *pb.TxnRequest {
	req := &pb.TxnRequest{Success: []*pb.RequestOp{translate.Note()}}
	for _, id := range ids {
		req.Success = append(req.Success, request.Delete(&pb.DeleteRangeRequest{Key: record.TxnKey(id)}))
	}
	return req
}
