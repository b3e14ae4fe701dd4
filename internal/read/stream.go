package read

import (
	"bytes"
	"context"
	"errors"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/snapshot"
	"github.com/metaetcd/metaetcd/internal/validate"
)

const (
	firstChunk = 10      // keys of a stream's first chunk, as etcd's: how large they are is not known yet
	mostGrowth = 16      // times that a chunk may have the keys of the one before
	chunkBytes = 1 << 18 // bytes that later chunks aim at: the receiver decodes one while the next is read
)

// stream is one RangeStream call.
type stream struct {
	reader *Reader
	req    *pb.RangeRequest
	send   func(*pb.RangeResponse) error

	at     int64          // the closed revision that the range is sent as it is at
	header headerRevision // of the answer
	sent   int64          // keys
	next   []byte         // what follows the last of them
}

// pin finds the stream's revision. It keeps the one that it has begun with when the log was restarted under it.
func (s *stream) pin(ctx context.Context, f *feed.Feed) (err error) {
	if s.sent == 0 {
		s.at, s.header, err = s.reader.readRevision(ctx, f, s.req)
	} else if s.req.Revision > 0 {
		s.header = s.reader.revisionBeside(f, s.at)
	}
	return err
}

// run sends what has not been sent yet.
func (s *stream) run(ctx context.Context, f *feed.Feed) error {
	key, end, empty := s.req.Key, s.req.RangeEnd, false
	if len(end) > 0 {
		key, end, empty = validate.Clip(key, end)
	}
	if empty || len(end) == 0 || s.req.CountOnly || s.req.SortTarget != pb.RangeRequest_KEY {
		return s.whole(ctx, f)
	}
	members := s.reader.cfg.Ring.MembersOf(key, end)
	if s.sent == 0 {
		s.next = key
	}
	for try := 1; ; try++ {
		err := s.pieces(ctx, f, end, members)
		if !errors.Is(err, rpctypes.ErrGRPCCompacted) || try == behindTries || !s.reader.behind(ctx, f, members, s.at) {
			return f.OrEnd(err)
		}
	}
}

// whole sends what must be read before any of it can be sent: a count, a single key, or a range that is sorted by something
// else than its keys. etcd sorts each chunk of such a range by itself, and goes on behind the chunk's last key, whichever that
// is, so that a range of more than one chunk comes with keys missing or doubled; here it is what Range answers.
func (s *stream) whole(ctx context.Context, f *feed.Feed) error {
	resp, err := s.reader.rangeAt(ctx, f, s.req, s.at, nil)
	if err != nil {
		return err
	}
	resp.Header = s.reader.cfg.Feeds.Header()
	if resp.Header.Revision, err = s.header(ctx); err != nil {
		return err
	}
	for n := int64(firstChunk); int64(len(resp.Kvs)) > n; {
		chunk := &pb.RangeResponse{Kvs: resp.Kvs[:n:n]}
		resp.Kvs = resp.Kvs[n:]
		s.sent += n
		n = nextChunk(n, len(chunk.Kvs), proto.Size(chunk))
		if err := s.send(chunk); err != nil {
			return err
		}
	}
	return s.send(resp)
}

// pieces sends a range in the order of its keys, as it is read.
func (s *stream) pieces(ctx context.Context, f *feed.Feed, end []byte, members []int) error {
	shown, answered := snapshot.Levels(s.req)
	b := s.reader.newBases(f, members, s.at, shown, answered)
	if err := b.locate(ctx, s.next, end); err != nil {
		return err
	}
	tails := make([][]*mergedlog.Event, len(members))
	for i := range tails {
		tails[i] = b.snaps[i].Tail
	}
	p := snapshot.NewPieces(s.next, end, tails)
	before, limit := s.sent, s.req.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	for n := int64(firstChunk); ; {
		if s.at < s.reader.cfg.Feeds.Compacted.Load() { // the members may have it still, as a compaction leaves them a bit more
			return rpctypes.ErrGRPCCompacted
		}
		kvs, err := take(ctx, p, b, min(n, limit-s.sent))
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
			resp.Header, resp.Count, resp.More = s.reader.cfg.Feeds.Header(), total, s.sent < total
			if resp.Header.Revision, err = s.header(ctx); err != nil {
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
func take(ctx context.Context, p *snapshot.Pieces, b *bases, n int64) ([]*mvccpb.KeyValue, error) {
	for {
		reqs := p.Plan(n)
		resps := make([]*pb.RangeResponse, len(reqs))
		err := atOnce(ctx, len(reqs), func(ctx context.Context, i int) (err error) {
			if reqs[i] != nil {
				resps[i], err = b.readBase(ctx, reqs[i], i)
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
		kvs, err := p.Take(n)
		if err == nil {
			err = b.complete(ctx, kvs, true)
		}
		if err != nil || len(kvs) > 0 || !asked {
			return kvs, err
		}
	}
}

// nextChunk is how many keys the chunk after one of n keys has, of which so many took so many bytes.
func nextChunk(n int64, keys, size int) int64 {
	if keys == 0 {
		return n
	}
	return min(max(int64(chunkBytes*keys/size), 1), mostGrowth*n)
}
