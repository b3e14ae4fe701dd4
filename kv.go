package metaetcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// Put puts a value at a key, and returns when it has landed on the key's member. The response's revision is the key's ModRevision.
//
// Options are those of [clientv3.OpPut]. Errors are etcd's, among them rpctypes.ErrEmptyKey, ErrKeyNotFound (with
// WithIgnoreValue), ErrLeaseNotFound, ErrRequestTooLarge and ErrNoSpace of the key's member, and [ErrReservedKey]. If ctx ends
// or the client is closed first, the value may be put all the same; [ErrUnknownOutcome] says so where it is known.
func (c *Client) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return c.kv.Put(ctx, key, val, opts...)
}

// Get reads a key, or with [clientv3.WithRange], WithPrefix or WithFromKey a range of keys over all members, as they are at one
// revision: that of the response's header, or the one of [clientv3.WithRev].
//
// It is linearizable: everything that was acknowledged before the call is in the answer. With [clientv3.WithSerializable] it
// asks no coordinator, and the answer covers what this process knows; see [Client.ClosedRevision]. Limits, sort orders and filters
// are etcd's. Errors are etcd's, among them rpctypes.ErrCompacted and ErrFutureRev.
func (c *Client) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return c.kv.Get(ctx, key, opts...)
}

// GetStream is Get in pieces, all of one revision: the channel carries the keys in order, and header, More and Count
// with the last piece. It refuses what etcd's refuses: other orders than that of keys, and filters by revision. A stream that is
// overtaken by a compaction ends with rpctypes.ErrCompacted.
func (c *Client) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	return c.kv.GetStream(ctx, key, opts...)
}

// Delete deletes a key, or with [clientv3.WithRange], WithPrefix or WithFromKey a range of keys over all members, at one revision.
// What deletes nothing takes no revision. Options and errors are etcd's; see [Client.Put] for contexts that end.
func (c *Client) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	return c.kv.Delete(ctx, key, opts...)
}

// Txn begins a transaction. Its compares, reads and writes may lie on any members: it takes effect as a whole, at one revision.
// One whose compares and writes lie on one member costs what a Put costs; one over several locks the slots of its keys, see
// docs/architecture. At most 128 operations, as in etcd. Errors are etcd's; see [Client.Put] for contexts that end.
func (c *Client) Txn(ctx context.Context) clientv3.Txn { return c.kv.Txn(ctx) }

// Do runs an operation: Get, Put, Delete or Txn, as the method of its name.
func (c *Client) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return c.kv.Do(ctx, op)
}

// Compact drops the history below a revision on all members: reads of older revisions, and watches from them, fail with
// rpctypes.ErrCompacted in all processes. A revision that is compacted already is refused with ErrCompacted, one that
// is still to come with ErrFutureRev. Nothing is compacted by itself: some process has to call Compact now and then.
//
// It waits for all members; if ctx ends before they have answered, their history goes with the next compaction. With
// [clientv3.WithCompactPhysical] it returns when the space is free.
func (c *Client) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	return c.kv.Compact(ctx, rev, opts...)
}

// kvServer is etcd's KV service over the meta cluster: validation, routing and answers are etcd's.
type kvServer struct {
	pb.UnsafeKVServer
	e     *engine.Engine
	names bool // errors keep the cluster that they come from, for those who are not written for etcd
}

func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("Range", start, err) }()
	if err := validate.Range(r); err != nil {
		return nil, err
	}
	resp, err = s.e.Reads.Range(ctx, r)
	return resp, s.fault(ctx, err)
}

// RangeStream sends a range in chunks, all of one revision. The last one carries the header, More and Count.
func (s *kvServer) RangeStream(r *pb.RangeRequest, out pb.KV_RangeStreamServer) (err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("RangeStream", start, err) }()
	if err := validate.RangeStream(r); err != nil {
		return err
	}
	err = s.e.Reads.Stream(out.Context(), r, func(resp *pb.RangeResponse) error {
		return out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
	})
	return s.fault(out.Context(), err)
}

func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (_ *pb.PutResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("Put", start, err) }()
	if err := validate.Put(r); err != nil {
		return nil, err
	}
	resp, err := s.e.Writes.Do(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: r}}}})
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	put := resp.Responses[0].GetResponsePut()
	put.Header = resp.Header
	return put, nil
}

func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (_ *pb.DeleteRangeResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("DeleteRange", start, err) }()
	if err := validate.DeleteRange(r); err != nil {
		return nil, err
	}
	resp, err := s.e.Writes.Do(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}}})
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	del := resp.Responses[0].GetResponseDeleteRange()
	del.Header = resp.Header
	return del, nil
}

func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (_ *pb.TxnResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("Txn", start, err) }()
	if err := validate.Txn(r, validate.MaxTxnOps); err != nil {
		return nil, err
	}
	resp, err := s.e.Writes.Do(ctx, r)
	return resp, s.fault(ctx, err)
}

// Compact drops the history below a revision: the record first, by compare-and-swap, so that every process
// refuses what is about to go; then each member's own history.
func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (_ *pb.CompactionResponse, err error) {
	start := time.Now()
	defer func() { s.e.Metrics.Request("Compact", start, err) }()
	h, err := s.e.Compact(ctx, r)
	if err != nil {
		return nil, s.fault(ctx, err)
	}
	return &pb.CompactionResponse{Header: h}, nil
}

// fault is what the service returns for an error of a request.
func (s *kvServer) fault(ctx context.Context, err error) error {
	return named(s.names, grpcError(s.e.Over(ctx, err)))
}

var _ pb.KVServer = (*kvServer)(nil)
