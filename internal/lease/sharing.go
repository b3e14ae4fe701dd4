package lease

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/share"
	"github.com/metaetcd/metaetcd/internal/wire"
)

// sharing lets transactions to one cluster travel together, each as a nested one: those of leases that are granted at the same time.
// What they compare and write must be their own lease's, and doing it twice must do no harm. Where etcd refuses them together, as those
// of grants of one id, each goes alone.
type sharing = share.Calls[*pb.TxnRequest, *pb.TxnResponse]

const (
	// loneTxns is how many requests may be out to one cluster: one that a server leaves hanging does not hold up all others.
	loneTxns = 2
	// sharedTxns bounds the transactions in one request. A coordinator has etcd's default of max-txn-ops at least.
	sharedTxns = 64
	// nesting is what a transaction here takes of max-txn-ops inside another one: its compares, and those of its failure.
	nesting = 6
)

func (l *Lessor) sharing(cluster string, send func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)) *sharing {
	alone := func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		resp, err := send(ctx, req)
		if err != nil {
			return nil, wire.Name(cluster, err)
		}
		return resp, nil
	}
	return share.New(share.Config[*pb.TxnRequest, *pb.TxnResponse]{
		Life: l.life, Timeout: requestTimeout, Lone: loneTxns, Most: max(min(sharedTxns, l.cfg.MaxTxnOps-nesting), 1),
		Alone: alone,
		Together: func(ctx context.Context, reqs []*pb.TxnRequest) ([]*pb.TxnResponse, error) {
			all := &pb.TxnRequest{}
			for _, r := range reqs {
				all.Success = append(all.Success, request.Txn(r))
			}
			resp, err := alone(ctx, all)
			if err != nil {
				return nil, err
			}
			resps := make([]*pb.TxnResponse, len(reqs))
			for i := range resps {
				resps[i] = resp.Responses[i].GetResponseTxn()
				resps[i].Header = resp.Header
			}
			return resps, nil
		},
	})
}

// with sends a transaction together with others.
func (l *Lessor) with(ctx context.Context, others *sharing, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := l.life.Within(ctx)
	defer cancel()
	return persist(ctx, func(ctx context.Context) (*pb.TxnResponse, error) { return others.Do(ctx, req) })
}
