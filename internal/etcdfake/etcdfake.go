// Package etcdfake is an etcd in memory, for tests: the KV service over the present revision, with etcd's own rules
// for transactions, versions and revisions, and with faults. Of leases it knows only which exist. It keeps a history, which can be
// read and watched, where KeepHistory or Dial have asked for one.
package etcdfake

import (
	"maps"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Etcd's defaults.
const (
	maxTxnOps       = 128
	maxRequestBytes = 1.5 * 1024 * 1024
)

// Server is one etcd cluster. It is safe for concurrent use; every request is atomic.
type Server struct {
	id uint64

	mu        sync.Mutex
	down      bool
	rev       int64
	compacted int64
	keys      []string // sorted
	kvs       map[string]*mvccpb.KeyValue
	leases    map[int64]bool
	watchers  []func(rev int64, events []*mvccpb.Event)
	past      *past // nil: none is kept
}

// Snapshot is what a Server holds at one moment.
type Snapshot struct {
	rev  int64
	keys []string
	kvs  map[string]*mvccpb.KeyValue
}

// New returns an empty etcd whose responses carry this cluster id.
func New(clusterID uint64) *Server {
	s := &Server{id: clusterID}
	s.Wipe()
	return s
}

// Wipe loses all data. The cluster id stays, as it does when etcd starts again with the same flags.
func (s *Server) Wipe() {
	s.Restore(Snapshot{rev: 1})
}

// Save returns what the server holds.
func (s *Server) Save() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Snapshot{rev: s.rev, keys: slices.Clone(s.keys), kvs: maps.Clone(s.kvs)}
}

// Restore goes back to a snapshot.
func (s *Server) Restore(from Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev, s.compacted, s.keys, s.kvs = from.rev, 0, slices.Clone(from.keys), maps.Clone(from.kvs)
	if s.kvs == nil {
		s.kvs = make(map[string]*mvccpb.KeyValue)
	}
	if s.past != nil {
		s.past = newPast(s)
	}
}

// Grant makes leases that keys can be put with, until End.
func (s *Server) Grant(ids ...int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases == nil {
		s.leases = make(map[int64]bool)
	}
	for _, id := range ids {
		s.leases[id] = true
	}
}

// End ends a lease, as when it has run out or is revoked: its keys go, all at one revision. False: there is none.
func (s *Server) End(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := s.leases[id]
	delete(s.leases, id)
	x := execution{Server: s, rev: s.rev + 1}
	for _, key := range slices.Clone(s.keys) {
		if there && s.kvs[key].Lease == id {
			x.remove(&pb.DeleteRangeRequest{Key: []byte(key)})
		}
	}
	x.commit()
	return there
}

// Watch calls seen with the events of every revision from now on, like a watch of all keys with their previous pairs. The
// server waits for it: seen must not send requests.
func (s *Server) Watch(seen func(rev int64, events []*mvccpb.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = append(s.watchers, seen)
}

// SetDown makes every request fail as unavailable, or no longer.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.past.tell()
}

// Revision is the number of writes since the server was empty, plus one.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// Compacted is the revision of the last compaction; 0: none.
func (s *Server) Compacted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compacted
}

// Get returns the value of a key, or nil.
func (s *Server) Get(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kvs[key].GetValue()
}

// Keys returns all keys, sorted.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

// handle answers one request.
func (s *Server) handle(req proto.Message) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, status.Error(codes.Unavailable, "etcdfake: down")
	}
	if proto.Size(req) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	if req, ok := req.(*pb.CompactionRequest); ok {
		return s.compact(req)
	}
	t, ok := req.(*pb.TxnRequest)
	if !ok {
		t = &pb.TxnRequest{Success: []*pb.RequestOp{single(req)}}
	}
	resp, err := s.txn(t)
	if err != nil || ok {
		return resp, err
	}
	return unpack(resp), nil
}

// single makes a plain request an operation of a transaction: etcd treats them alike.
func single(req proto.Message) *pb.RequestOp {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return request.Range(req)
	case *pb.PutRequest:
		return request.Put(req)
	case *pb.DeleteRangeRequest:
		return request.Delete(req)
	}
	return nil
}

func unpack(resp *pb.TxnResponse) proto.Message {
	switch r := resp.Responses[0].Response.(type) {
	case *pb.ResponseOp_ResponseRange:
		r.ResponseRange.Header = resp.Header
		return r.ResponseRange
	case *pb.ResponseOp_ResponsePut:
		r.ResponsePut.Header = resp.Header
		return r.ResponsePut
	case *pb.ResponseOp_ResponseDeleteRange:
		r.ResponseDeleteRange.Header = resp.Header
		return r.ResponseDeleteRange
	}
	return nil
}

func (s *Server) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.id, MemberId: s.id + 1, Revision: s.rev, RaftTerm: 2}
}

func (s *Server) compact(req *pb.CompactionRequest) (proto.Message, error) {
	switch {
	case req.Revision <= s.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	case req.Revision > s.rev:
		return nil, rpctypes.ErrGRPCFutureRev
	}
	s.compacted = req.Revision
	return &pb.CompactionResponse{Header: s.header()}, nil
}

// span returns the keys of an etcd range: no end is a single key, end {0} is everything from key on.
func (s *Server) span(key, end []byte) []string { return spanOf(s.keys, key, end) }

func spanOf(keys []string, key, end []byte) []string {
	lo, found := slices.BinarySearch(keys, string(key))
	switch {
	case len(end) == 0 && found:
		return keys[lo : lo+1]
	case len(end) == 0:
		return nil
	case keyrange.Of(key, end).Unbounded():
		return keys[lo:]
	}
	hi, _ := slices.BinarySearch(keys, string(end))
	return keys[lo:max(lo, hi)]
}
