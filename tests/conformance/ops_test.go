package conformance

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// requestOp is the clientv3 operation that sends the given request.
func requestOp(req any) (clientv3.Op, error) {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return clientv3.OpGet(string(req.Key), getOpts(req)...), nil
	case *pb.PutRequest:
		return clientv3.OpPut(string(req.Key), string(req.Value), putOpts(req)...), nil
	case *pb.DeleteRangeRequest:
		return clientv3.OpDelete(string(req.Key), deleteOpts(req)...), nil
	case *pb.TxnRequest:
		cmps, then, otherwise, err := txnOps(req)
		return clientv3.OpTxn(cmps, then, otherwise), err
	}
	return clientv3.Op{}, errUnexpressible
}

func getOpts(req *pb.RangeRequest) []clientv3.OpOption {
	opts := []clientv3.OpOption{
		clientv3.WithRev(req.Revision), clientv3.WithLimit(req.Limit),
		clientv3.WithSort(clientv3.SortTarget(req.SortTarget), clientv3.SortOrder(req.SortOrder)),
		clientv3.WithMinModRev(req.MinModRevision), clientv3.WithMaxModRev(req.MaxModRevision),
		clientv3.WithMinCreateRev(req.MinCreateRevision), clientv3.WithMaxCreateRev(req.MaxCreateRevision),
	}
	if len(req.RangeEnd) > 0 {
		opts = append(opts, clientv3.WithRange(string(req.RangeEnd)))
	}
	if req.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	if req.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if req.CountOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	return opts
}

func putOpts(req *pb.PutRequest) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithLease(clientv3.LeaseID(req.Lease))}
	if req.PrevKv {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if req.IgnoreValue {
		opts = append(opts, clientv3.WithIgnoreValue())
	}
	if req.IgnoreLease {
		opts = append(opts, clientv3.WithIgnoreLease())
	}
	return opts
}

func deleteOpts(req *pb.DeleteRangeRequest) []clientv3.OpOption {
	var opts []clientv3.OpOption
	if len(req.RangeEnd) > 0 {
		opts = append(opts, clientv3.WithRange(string(req.RangeEnd)))
	}
	if req.PrevKv {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return opts
}

func txnOps(req *pb.TxnRequest) (cmps []clientv3.Cmp, then, otherwise []clientv3.Op, err error) {
	for _, c := range req.Compare {
		cmps = append(cmps, clientv3.FromCompare(c))
	}
	if then, err = requestOps(req.Success); err != nil {
		return nil, nil, nil, err
	}
	otherwise, err = requestOps(req.Failure)
	return cmps, then, otherwise, err
}

func requestOps(reqs []*pb.RequestOp) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	for _, r := range reqs {
		op, err := requestOp(inner(r))
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// inner is the request within a transaction's operation; nil when there is none.
func inner(op *pb.RequestOp) any {
	switch u := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return u.RequestRange
	case *pb.RequestOp_RequestPut:
		return u.RequestPut
	case *pb.RequestOp_RequestDeleteRange:
		return u.RequestDeleteRange
	case *pb.RequestOp_RequestTxn:
		return u.RequestTxn
	}
	return nil
}
