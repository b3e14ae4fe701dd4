package member

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/request"
)

const (
	// loneReads is how many reads of single keys may be out to one member as requests of their own.
	loneReads = 2
	// sharedReads bounds the keys that travel in one request, as the member's max-txn-ops does.
	sharedReads = 64
	// sharedBytes is what the answer to one request aims at. How large values are is known only when they are there: so a request has
	// as many keys as the one before could have had, and at most twice as many as that had.
	sharedBytes = 1 << 20
	leastShared = 2 // one alone would not tell
)

// readBatcher reads single keys of one member. A request costs client and server far more than the key in it, so while
// loneReads requests are out, later reads wait and then share one: a serializable transaction of ranges, each at
// its own revision.
//
// Every read is answered, by the request that it waited for or by the end of the process; what waits is sent in the order of the calls;
// at most loneReads requests are out. One read that fails fails no other. It is safe for concurrent use.
type readBatcher struct {
	m    *Member
	most int // keys in one request

	mu    sync.Mutex
	room  int            // keys of the next request, by what answers bring; see sharedBytes
	out   int            // requests
	queue []*batchedRead // waits for one of them to come back; empty while out < loneReads
}

type batchedRead struct {
	req  *pb.RangeRequest
	resp *pb.RangeResponse
	err  error
	done chan struct{}
}

// ReadPoint is RangeAt for one key, where many are read at once: requests may share one.
func (m *Member) ReadPoint(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return m.points.read(ctx, req)
}

func (p *readBatcher) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	p.mu.Lock()
	if p.out < loneReads {
		p.out++
		p.mu.Unlock()
		defer p.next() //nolint:contextcheck // the next reads are other callers'
		return p.m.RangeAt(ctx, req)
	}
	r := &batchedRead{req: req, done: make(chan struct{})}
	p.queue = append(p.queue, r)
	p.mu.Unlock()
	select {
	case <-r.done:
		return r.resp, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// next sends what waits, after a request came back.
func (p *readBatcher) next() {
	p.mu.Lock()
	n := min(len(p.queue), p.room)
	if n == 0 {
		p.out--
		p.mu.Unlock()
		return
	}
	batch := append([]*batchedRead(nil), p.queue[:n]...)
	p.queue = append(p.queue[:0], p.queue[n:]...)
	p.mu.Unlock()
	if !p.m.Life.Spawn(func() {
		defer p.next()
		p.share(batch)
	}) {
		for _, r := range batch {
			r.err = p.m.Life.Cause()
			close(r.done)
		}
		p.next()
	}
}

func (p *readBatcher) share(batch []*batchedRead) {
	ctx, cancel := context.WithTimeout(p.m.Life.Context(), p.m.Timeout)
	defer cancel()
	if len(batch) > 1 && p.txn(ctx, batch) == nil {
		return
	}
	// Alone, or one of them (a server that lags, a compaction) failed all.
	for _, r := range batch {
		r.resp, r.err = p.m.RangeAt(ctx, r.req)
		close(r.done)
	}
}

func (p *readBatcher) txn(ctx context.Context, batch []*batchedRead) error {
	req := &pb.TxnRequest{Success: make([]*pb.RequestOp, len(batch))}
	for i, r := range batch {
		r.req.Serializable = true
		req.Success[i] = request.Range(r.req)
	}
	resp, err := p.m.Txn(ctx, req)
	if err != nil {
		return err
	}
	p.brought(len(batch), proto.Size(resp))
	for i, r := range batch {
		r.resp = resp.Responses[i].GetResponseRange()
		r.resp.Header = resp.Header
		close(r.done)
	}
	return nil
}

// brought learns how large an answer to a number of keys was.
func (p *readBatcher) brought(keys, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room = min(max(keys*sharedBytes/max(bytes, 1), leastShared), 2*max(keys, p.room), p.most)
}
