package metaetcd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/validate"
)

// maxTxnOps is etcd's default limit of operations in one transaction, as users meet it.
const maxTxnOps = 128

// kvServer is etcd's KV service over the meta cluster: validation, routing and answers are etcd's.
type kvServer struct {
	pb.UnsafeKVServer
	c *core
}

var _ pb.KVServer = (*kvServer)(nil)

func (s *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("Range", start, err) }()
	if err := validate.Range(r); err != nil {
		return nil, err
	}
	err = s.c.current(ctx, func(f *feed) error {
		resp, err = s.read(ctx, f, r)
		return err
	})
	return resp, s.c.grpcError(ctx, err)
}

// read serves a range request from one snapshot, or, when the closed revision is held up, from its key's member.
func (s *kvServer) read(ctx context.Context, f *feed, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	wait, cancel := ctx, context.CancelFunc(func() {})
	lone := !r.Serializable && len(r.RangeEnd) == 0 && r.Revision <= 0
	if lone {
		wait, cancel = context.WithTimeout(ctx, fencedReadAfter)
	}
	at, header, err := s.c.readRevision(wait, f, r)
	cancel()
	if lone && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return s.c.fencedRead(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	resp, err := s.c.rangeAt(ctx, f, r, at, nil)
	if err != nil {
		return nil, asked(err, r.Revision > 0)
	}
	resp.Header = s.c.header()
	resp.Header.Revision = header
	return resp, nil
}

// RangeStream sends a range in chunks, all of one revision. The last one carries the header, More and Count.
func (s *kvServer) RangeStream(r *pb.RangeRequest, out pb.KV_RangeStreamServer) (err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("RangeStream", start, err) }()
	if err := validate.RangeStream(r); err != nil {
		return err
	}
	ctx := out.Context()
	sent := false
	err = s.c.current(ctx, func(f *feed) error {
		if sent { // what was sent cannot be taken back
			return rpctypes.ErrGRPCCompacted
		}
		at, header, err := s.c.readRevision(ctx, f, r)
		if err != nil {
			return err
		}
		return asked(s.stream(f, proto.Clone(r).(*pb.RangeRequest), at, header, func(resp *pb.RangeResponse) error {
			sent = true
			return out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
		}, ctx), r.Revision > 0)
	})
	return s.c.grpcError(ctx, err)
}

const (
	firstChunk = 10      // keys of the first chunk of a stream, as in etcd
	chunkBytes = 3 << 19 // bytes that later chunks aim at: etcd's default request size
)

func (s *kvServer) stream(f *feed, r *pb.RangeRequest, at, header int64, send func(*pb.RangeResponse) error, ctx context.Context) error {
	total := r.Limit
	if total == 0 {
		total = math.MaxInt64
	}
	if !r.CountOnly {
		r.Limit = min(firstChunk, total)
	}
	count := int64(0)
	for {
		resp, err := s.c.rangeAt(ctx, f, r, at, nil)
		if err != nil {
			return err
		}
		count += int64(len(resp.Kvs))
		last := r.CountOnly || !resp.More || count == total
		if last {
			resp.Header = s.c.header()
			resp.Header.Revision = header
			if !r.CountOnly {
				resp.Count += count - int64(len(resp.Kvs))
			}
			return send(resp)
		}
		// In this process what was sent is the receiver's: look at it before.
		r.Key = append(bytes.Clone(resp.Kvs[len(resp.Kvs)-1].Key), 0)
		r.Limit = min(nextChunk(r.Limit, proto.Size(resp)), total-count)
		if err := send(&pb.RangeResponse{Kvs: resp.Kvs}); err != nil {
			return err
		}
	}
}

// nextChunk is how many keys the next chunk has after one of so many keys and bytes. It grows by up to eight times where etcd
// doubles it, because each chunk is a round trip to the members.
func nextChunk(keys int64, size int) int64 {
	switch {
	case size > chunkBytes*2:
		return max(keys/2, 1)
	case size >= chunkBytes/2:
		return keys
	}
	return keys * min(8, chunkBytes/int64(size))
}

func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (_ *pb.PutResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("Put", start, err) }()
	if err := validate.Put(r); err != nil {
		return nil, err
	}
	resp, err := s.c.write(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: r}}}})
	if err != nil {
		return nil, s.c.grpcError(ctx, err)
	}
	put := resp.Responses[0].GetResponsePut()
	put.Header = resp.Header
	return put, nil
}

func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (_ *pb.DeleteRangeResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("DeleteRange", start, err) }()
	if err := validate.DeleteRange(r); err != nil {
		return nil, err
	}
	resp, err := s.c.write(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}}})
	if err != nil {
		return nil, s.c.grpcError(ctx, err)
	}
	del := resp.Responses[0].GetResponseDeleteRange()
	del.Header = resp.Header
	return del, nil
}

func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (_ *pb.TxnResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("Txn", start, err) }()
	if err := validate.Txn(r, maxTxnOps); err != nil {
		return nil, err
	}
	resp, err := s.c.write(ctx, r)
	return resp, s.c.grpcError(ctx, err)
}

// Compact drops the history below a revision (section 7): the record first, by compare-and-swap, so that every process
// refuses what is about to go; then each member's own history.
func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (_ *pb.CompactionResponse, err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("Compact", start, err) }()
	h := s.c.header()
	err = s.c.current(ctx, func(f *feed) error {
		if h.Revision, err = s.c.presentFor(ctx, f, r.Revision); err != nil {
			return err
		}
		return asked(s.c.compact(ctx, f, r, h.Revision), true)
	})
	if err != nil {
		return nil, s.c.grpcError(ctx, err)
	}
	return &pb.CompactionResponse{Header: h}, nil
}
