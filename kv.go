package metaetcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

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

// read serves a range request from one snapshot.
func (s *kvServer) read(ctx context.Context, f *feed, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if !r.Serializable && len(r.RangeEnd) == 0 && r.Revision <= 0 {
		return s.c.readKey(ctx, f, r)
	}
	at, header, err := s.c.readRevision(ctx, f, r)
	if err != nil {
		return nil, err
	}
	resp, err := s.c.rangeAt(ctx, f, r, at, nil)
	if err != nil {
		return nil, asked(err, r.Revision > 0)
	}
	resp.Header = s.c.header()
	if resp.Header.Revision, err = header(ctx); err != nil {
		return nil, err
	}
	return resp, nil
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
