package wire

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/hedge"
	"github.com/metaetcd/metaetcd/internal/lifetime"
)

const (
	// suspectAfter is the least time after which a transaction that writes is suspected to be with a server that hangs, and
	// suspectAfterMost bounds it.
	suspectAfter     = 300 * time.Millisecond
	suspectAfterMost = 2 * time.Second
	// suspectTimes is how many times as long as what counts as late that is: a write that is given up costs more than a read beside.
	suspectTimes = 3
	// suspectRest is how long a write still has when a read that was sent behind it was answered: with a new leader, both go on at once.
	suspectRest = 100 * time.Millisecond
	// goAround is how long writes go around the servers that hang, until one of them may hit such a server again.
	goAround = 10 * time.Second
	// seekWithin bounds the search for a server that answers.
	seekWithin = 2 * time.Second
)

// errHung ends a transaction whose server does not answer it, though the cluster answers others.
var errHung = errors.New("metaetcd: a server hangs")

// Servers are the servers of one cluster, as far as it matters that one of them hangs: stopped, frozen, or without the leader that it
// has passed a proposal to. What writes is not sent twice. But it need not be waited for until its own end: whoever sent it
// finds out what became of it, and goes on. So a write that is late is given up where the cluster answers a read
// meanwhile that was sent later. Then writes, and watches that are opened, go through a connection of their own to a
// server that answers, for a while: the client of clientv3 would send every second or third of them to the server that hangs.
//
// It is safe for concurrent use.
type Servers struct {
	cli  *clientv3.Client
	life *lifetime.Life
	kv   *kv
	pace hedge.Pace // of what writes

	given atomic.Int32 // writes given up in a row: where that was wrong, it takes longer

	mu      sync.Mutex
	conns   map[string]*grpc.ClientConn  // by endpoint, once they were needed
	around  *grpc.ClientConn             // to a server that answered; nil: the client does
	until   time.Time                    // of around
	seeking chan struct{}                // closed when a search has ended; nil: there is none
	watches map[chan<- struct{}]struct{} // are told when a server hangs
}

// NewServers returns the servers of the cluster that cli is connected to. What it starts ends with life; Close frees it.
func NewServers(life *lifetime.Life, cli *clientv3.Client) *Servers {
	s := &Servers{cli: cli, life: life, kv: newKV(cli), watches: map[chan<- struct{}]struct{}{}}
	s.kv.servers = s
	return s
}

// Close closes the connections that it has made. Nothing may be sent any more.
func (s *Servers) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns, s.around = nil, nil
}

// KV is KV, but a transaction that writes fails with Unavailable when its server hangs. It may have been carried out, and it still
// may be.
func (s *Servers) KV() pb.KVClient { return s.kv }

func (s *Servers) several() bool { return len(s.cli.Endpoints()) > 1 }

// write sends what writes, through via or, while a server hangs, around it, and gives it up when its server hangs.
func write[C, T any](ctx context.Context, s *Servers, via C, around func(grpc.ClientConnInterface) C, send func(ctx context.Context, via C) (T, error)) (T, error) {
	if !s.several() {
		return send(ctx, via)
	}
	if c := s.detour(); c != nil {
		via = around(c)
	}
	sending, end := context.WithCancelCause(ctx)
	begun, over := time.Now(), make(chan struct{})
	suspect := time.AfterFunc(s.patience(), func() {
		defer close(over)
		if s.kv.present(sending) == nil && lifetime.Pause(sending, suspectRest) == nil {
			end(errHung)
		}
	})
	resp, err := send(sending, via)
	end(nil)
	if !suspect.Stop() {
		<-over
	}
	hung := errors.Is(context.Cause(sending), errHung) && status.Code(err) == codes.Canceled
	switch {
	case err == nil:
		s.pace.Note(time.Since(begun))
		s.given.Store(0)
	case hung:
		s.given.Add(1)
		if found := s.seek(); found != nil { //nolint:contextcheck // the search is everybody's
			select {
			case <-found: // it goes on at once then
			case <-ctx.Done():
			}
		}
		err = status.Error(codes.Unavailable, "the server does not answer, and others do")
	}
	return resp, err
}

// patience is how long a transaction that writes may take before its server is suspected to hang.
func (s *Servers) patience() time.Duration {
	return min(max(suspectTimes*s.pace.Late(), suspectAfter<<min(s.given.Load(), 4)), suspectAfterMost)
}

// detour is the connection to a server that answers while another one hangs; nil: there is none, or no need.
func (s *Servers) detour() *grpc.ClientConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.around == nil || !time.Now().Before(s.until) {
		return nil
	}
	return s.around
}

// follow returns where a watch is told that a server hangs, which may be its own, and what ends that.
func (s *Servers) follow() (suspected <-chan struct{}, leave func()) {
	told := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches[told] = struct{}{}
	return told, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, told)
	}
}

// seek finds a server that answers, beside the caller, because one of them hangs. The channel is closed when it has; nil: it does not.
func (s *Servers) seek() <-chan struct{} {
	if !s.several() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for told := range s.watches {
		lifetime.Wake(told)
	}
	if s.seeking != nil {
		return s.seeking
	}
	found := make(chan struct{})
	if s.life.Spawn(func() {
		around := s.first(s.life.Context())
		s.mu.Lock()
		defer s.mu.Unlock()
		s.around, s.until, s.seeking = around, time.Now().Add(goAround), nil
		close(found)
	}) {
		s.around, s.seeking = nil, found
	}
	return s.seeking
}

// first returns a connection to the server that answers first; nil: none does.
func (s *Servers) first(ctx context.Context) *grpc.ClientConn {
	ctx, cancel := context.WithTimeout(ctx, seekWithin)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	conns := s.dial()
	answers := make(chan *grpc.ClientConn, len(conns))
	for _, c := range conns {
		asking.Go(func() {
			if _, err := pb.NewKVClient(c).Range(ctx, presence(), unbounded...); err != nil {
				c = nil
			}
			answers <- c
		})
	}
	for range conns {
		if c := <-answers; c != nil {
			return c
		}
	}
	return nil
}

// presence is a linearizable read that costs next to nothing.
func presence() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte{0}, CountOnly: true} }

// dial returns a connection to each server. They are made as cli makes its own, and kept.
func (s *Servers) dial() []*grpc.ClientConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*grpc.ClientConn
	if s.conns == nil {
		s.conns = map[string]*grpc.ClientConn{}
	}
	for _, ep := range slices.Compact(slices.Sorted(slices.Values(s.cli.Endpoints()))) {
		if s.conns[ep] == nil {
			c, err := s.cli.Dial(ep)
			if err != nil {
				continue // the others may do
			}
			s.conns[ep] = c
		}
		s.conns[ep].ResetConnectBackoff()
		all = append(all, s.conns[ep])
	}
	return all
}
