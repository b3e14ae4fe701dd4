package etcdfake

import (
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// past is the history of a server: all of its revisions since it is kept. Its server's mutex guards it; a nil past keeps nothing.
type past struct {
	first int64 // the revision at which it began
	revs  []revision
	more  chan struct{} // closed, and replaced, when there is something new for those who watch
}

// revision is a revision: what it changed and what it left.
type revision struct {
	events []*mvccpb.Event
	left   Snapshot
}

func newPast(s *Server) *past {
	p := &past{first: s.rev, more: make(chan struct{})}
	p.add(s, nil)
	return p
}

// KeepHistory makes the server keep its revisions, whole: from now on they can be read, and watched by clients of Dial.
func (s *Server) KeepHistory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.past == nil {
		s.past = newPast(s)
	}
}

// add keeps the server's present revision.
func (p *past) add(s *Server, events []*mvccpb.Event) {
	if p == nil {
		return
	}
	p.revs = append(p.revs, revision{events: events, left: Snapshot{rev: s.rev, keys: slices.Clone(s.keys), kvs: maps.Clone(s.kvs)}})
	p.tell()
}

// tell makes those who watch look again.
func (p *past) tell() {
	if p != nil {
		close(p.more)
		p.more = make(chan struct{})
	}
}

// checkRevision accepts a revision that can be read; 0 is the present.
func (s *Server) checkRevision(rev int64) error {
	switch {
	case rev <= 0:
		return nil
	case s.past == nil || rev < s.past.first:
		return status.Error(codes.Unimplemented, "etcdfake: no history")
	case rev > s.rev:
		return rpctypes.ErrGRPCFutureRev
	case rev < s.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// at is what there was at a revision that checkRevision accepts.
func (s *Server) at(rev int64) ([]string, map[string]*mvccpb.KeyValue) {
	if rev <= 0 {
		return s.keys, s.kvs
	}
	then := s.past.revs[rev-s.past.first].left
	return then.keys, then.kvs
}

// since is what a watch from a revision on finds: the next events, or a channel that is closed when there may be more.
func (s *Server) since(from int64) (found []revision, more <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.down:
		return nil, nil, status.Error(codes.Unavailable, "etcdfake: down")
	case from < s.compacted:
		return nil, nil, rpctypes.ErrGRPCCompacted
	case from <= s.past.first:
		from = s.past.first + 1
	}
	return s.past.revs[min(from-s.past.first, int64(len(s.past.revs))):], s.past.more, nil
}
