package snapshot

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// TestPiecesAreTheList compares a list in pieces of random sizes, from members that answer with as little as they like, with etcd's
// list of the merged keyspace.
func TestPiecesAreTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		before := clones(h.members...)
		r := h.stamps - int64(uniform(int(h.stamps)).Draw(t, "newer stamps"))
		req := drawRequest(t, h)
		req = &pb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd}
		if len(req.RangeEnd) == 0 {
			req.RangeEnd = []byte{0}
		}
		tails, los := make([][]*mergedlog.Event, len(h.members)), make([]int64, len(h.members))
		for m := range tails {
			los[m] = int64(uniform(int(h.lo(m, r))+1).Draw(t, "lo"))
			tails[m] = h.tail(m, los[m], r, req.Key, req.RangeEnd)
		}
		p := NewPieces(req.Key, req.RangeEnd, tails)
		want := etcdRange(req, h.at(r))
		var got []*mvccpb.KeyValue
		for {
			n := 1 + int64(uniform(9).Draw(t, "piece"))
			asked := false
			for m, native := range p.Plan(n) {
				if native == nil {
					continue
				}
				asked = true
				require.Positive(t, native.Limit)
				if rapid.Bool().Draw(t, "smaller share") {
					native.Limit = min(native.Limit, 1+int64(uniform(3).Draw(t, "share")))
				}
				p.Add(m, etcdRange(native, h.native(m, los[m])))
			}
			piece, err := p.Take(n)
			require.NoError(t, err)
			require.LessOrEqual(t, int64(len(piece)), n)
			require.EqualValues(t, want.Count, p.Total())
			got = append(got, piece...)
			if !asked && len(piece) == 0 {
				break
			}
		}
		requireSame(t, want, &pb.RangeResponse{Kvs: got, Count: p.Total()}, req)
		require.Equal(t, before, clones(h.members...), "events were changed")
	})
}

// TestPiecesReadKeysOnce: of keys that are spread, a list of pieces reads little more than it shows, in one round of requests for
// each piece.
func TestPiecesReadKeysOnce(t *testing.T) {
	const members, each, piece = 3, 1000, 120
	states := make([]map[string]*mvccpb.KeyValue, members)
	for i := range states {
		states[i] = map[string]*mvccpb.KeyValue{}
	}
	for i := range members * each {
		kv := put(fmt.Sprintf("k%05d", i), 2, 2, 1, nil).Kv
		states[i*7919%members][string(kv.Key)] = kv
	}
	p := NewPieces([]byte("k"), []byte("l"), make([][]*mergedlog.Event, members))
	read, shown := 0, 0
	for range 10 {
		for m, native := range p.Plan(piece) {
			if native != nil {
				resp := etcdRange(native, states[m])
				read += len(resp.Kvs)
				p.Add(m, resp)
			}
		}
		kvs, err := p.Take(piece)
		require.NoError(t, err)
		require.Len(t, kvs, piece)
		shown += len(kvs)
	}
	require.Less(t, read, shown*5/4)
	require.EqualValues(t, members*each, p.Total())
}

func TestPiecesRefuseOverlap(t *testing.T) {
	resp := &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{put("a", 2, 2, 1, nil).Kv}, Count: 1}
	p := NewPieces([]byte("a"), []byte("z"), make([][]*mergedlog.Event, 2))
	p.Add(0, resp)
	p.Add(1, resp)
	_, err := p.Take(2)
	require.ErrorIs(t, err, ErrOverlap)
}
