package member

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/share"
)

const (
	// loneReads is how many reads of single keys may be out to one member as requests of their own.
	loneReads = 2
	// sharedReads bounds the keys that travel in one request, as the member's max-txn-ops does.
	sharedReads = 64
	// sharedBytes is what the answer to one request aims at.
	sharedBytes = 1 << 20
)

type points = share.Calls[*pb.RangeRequest, *pb.RangeResponse]

// newPoints makes the reads of single keys. Those that share a request are a serializable transaction of ranges, each at its own revision.
// One of them (a server that lags, a compaction) may fail all.
func (m *Member) newPoints() *points {
	return share.New(share.Config[*pb.RangeRequest, *pb.RangeResponse]{
		Life: m.Life, Timeout: m.Timeout, Lone: loneReads, Most: min(sharedReads, m.MaxTxnOps),
		Size: func(r *pb.RangeResponse) int { return proto.Size(r) }, Bytes: sharedBytes,
		Alone: m.RangeAt, Together: m.pointsAt,
	})
}

// ReadPoint is RangeAt for one key, where many are read at once: requests may share one.
func (m *Member) ReadPoint(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return m.points.Do(ctx, req)
}

func (m *Member) pointsAt(ctx context.Context, reqs []*pb.RangeRequest) ([]*pb.RangeResponse, error) {
	txn := &pb.TxnRequest{Success: make([]*pb.RequestOp, len(reqs))}
	for i, r := range reqs {
		r.Serializable = true
		txn.Success[i] = request.Range(r)
	}
	resp, err := m.Txn(ctx, txn)
	if err != nil {
		return nil, err
	}
	resps := make([]*pb.RangeResponse, len(reqs))
	for i := range resps {
		resps[i] = resp.Responses[i].GetResponseRange()
		resps[i].Header = resp.Header
	}
	return resps, nil
}
