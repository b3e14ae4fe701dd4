package metaetcd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/validate"
)

const (
	firstChunk = 30      // keys of a stream's first chunk: how large they are is not known yet
	chunkBytes = 1 << 18 // bytes that later chunks aim at: the receiver decodes one while the next is read
)

// RangeStream sends a range in chunks, all of one revision. The last one carries the header, More and Count.
func (s *kvServer) RangeStream(r *pb.RangeRequest, out pb.KV_RangeStreamServer) (err error) {
	start := time.Now()
	defer func() { s.c.metrics.request("RangeStream", start, err) }()
	if err := validate.RangeStream(r); err != nil {
		return err
	}
	ctx := out.Context()
	st := &stream{c: s.c, req: r, send: func(resp *pb.RangeResponse) error { return out.Send(&pb.RangeStreamResponse{RangeResponse: resp}) }}
	err = s.c.current(ctx, func(f *feed) error {
		if st.sent > 0 { // what was sent cannot be taken back
			return rpctypes.ErrGRPCCompacted
		}
		at, header, err := s.c.readRevision(ctx, f, r)
		if err != nil {
			return err
		}
		return asked(st.at(ctx, f, at, header), r.Revision > 0)
	})
	return s.c.grpcError(ctx, err)
}

// stream is one RangeStream call.
type stream struct {
	c    *core
	req  *pb.RangeRequest
	send func(*pb.RangeResponse) error

	sent int64  // keys
	next []byte // what follows the last of them
}

// at sends the range as it is at a closed revision.
func (s *stream) at(ctx context.Context, f *feed, at int64, header present) error {
	key, end, empty := s.req.Key, s.req.RangeEnd, false
	if len(end) > 0 {
		key, end, empty = validate.Clip(key, end)
	}
	if empty || len(end) == 0 || s.req.CountOnly {
		resp, err := s.c.rangeAt(ctx, f, s.req, at, nil)
		if err != nil {
			return err
		}
		resp.Header = s.c.header()
		if resp.Header.Revision, err = header(ctx); err != nil {
			return err
		}
		return s.send(resp)
	}
	members := s.c.ring.MembersOf(key, end)
	s.next = key
	for try := 1; ; try++ {
		err := s.pieces(ctx, f, end, members, at, header)
		if !errors.Is(err, rpctypes.ErrGRPCCompacted) || try == behindTries || !s.c.behind(ctx, f, members, at) {
			return err
		}
	}
}

// pieces sends what has not been sent yet.
func (s *stream) pieces(ctx context.Context, f *feed, end []byte, members []int, at int64, header present) error {
	snaps, err := f.snapshot(ctx, at, members, s.next, end)
	if err != nil {
		return err
	}
	tails := make([][]*mergedlog.Event, len(snaps))
	for i := range snaps {
		tails[i] = snaps[i].Tail
	}
	p := snapshot.NewPieces(s.next, end, tails)
	before, limit := s.sent, s.req.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	for n := int64(firstChunk); ; {
		kvs, err := s.take(ctx, p, members, snaps, min(n, limit-s.sent))
		if err != nil {
			return err
		}
		resp := &pb.RangeResponse{Kvs: kvs}
		n = nextChunk(n, len(kvs), proto.Size(resp))
		if s.sent += int64(len(kvs)); len(kvs) > 0 {
			s.next = append(bytes.Clone(kvs[len(kvs)-1].Key), 0)
		}
		total := before + p.Total()
		last := s.sent >= min(limit, total) || len(kvs) == 0
		if last {
			resp.Header, resp.Count, resp.More = s.c.header(), total, s.sent < total
			if resp.Header.Revision, err = header(ctx); err != nil {
				return err
			}
		}
		if s.req.KeysOnly {
			snapshot.Strip(kvs, s.req.SortTarget)
		}
		// In this process what was sent is the receiver's.
		if err := s.send(resp); err != nil || last {
			return err
		}
	}
}

// take reads what the next n keys need, and returns as many of them as that shows: all, or those that are left, or at least one.
func (s *stream) take(ctx context.Context, p *snapshot.Pieces, members []int, snaps []mergedlog.MemberSnapshot, n int64) ([]*mvccpb.KeyValue, error) {
	for {
		reqs := p.Plan(n)
		resps := make([]*pb.RangeResponse, len(reqs))
		err := atOnce(ctx, len(reqs), func(ctx context.Context, i int) (err error) {
			if reqs[i] != nil {
				resps[i], err = s.c.readBase(ctx, reqs[i], members[i], snaps[i].Lo)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		asked := false
		for i, resp := range resps {
			if resp != nil {
				p.Add(i, resp)
				asked = true
			}
		}
		if kvs, err := p.Take(n); err != nil || len(kvs) > 0 || !asked {
			return kvs, err
		}
	}
}

// nextChunk is how many keys the chunk after one of n keys has, of which so many took so many bytes.
func nextChunk(n int64, keys, size int) int64 {
	if keys == 0 {
		return n
	}
	return min(max(int64(chunkBytes*keys/size), 1), 8*n)
}
