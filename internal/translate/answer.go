package translate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Answer builds the user's response of a run from its steps' results, in order. rev is the transaction's revision; a
// run that changed nothing (changed false) answers with rev as the revision it was read at. The outer header is the caller's.
func (p *Plan) Answer(run *Run, rev int64, changed bool, rs []Result) *pb.TxnResponse {
	before := rev
	if changed {
		before = rev - 1
	}
	a := answer{path: run.Path, results: rs, before: before, rev: rev}
	return a.txn(p.Req)
}

type answer struct {
	path    []bool
	results []Result
	before  int64 // revision in inner headers until the first change
	rev     int64
	written bool
}

func (a *answer) header() *pb.ResponseHeader {
	if a.written {
		return &pb.ResponseHeader{Revision: a.rev}
	}
	return &pb.ResponseHeader{Revision: a.before}
}

func (a *answer) next() Result {
	r := a.results[0]
	a.results = a.results[1:]
	return r
}

func (a *answer) txn(req *pb.TxnRequest) *pb.TxnResponse {
	ok := a.path[0]
	a.path = a.path[1:]
	ops := req.Failure
	if ok {
		ops = req.Success
	}
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: ok, Responses: make([]*pb.ResponseOp, len(ops))}
	for i, op := range ops {
		resp.Responses[i] = a.op(op)
	}
	return resp
}

func (a *answer) op(op *pb.RequestOp) *pb.ResponseOp {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestPut:
		r := a.next()
		a.written = true
		put := &pb.PutResponse{Header: a.header()}
		if o.RequestPut.PrevKv && len(r.Prev) > 0 {
			put.PrevKv = r.Prev[0]
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: put}}
	case *pb.RequestOp_RequestDeleteRange:
		r := a.next()
		a.written = a.written || r.Deleted > 0
		del := &pb.DeleteRangeResponse{Header: a.header(), Deleted: r.Deleted}
		if o.RequestDeleteRange.PrevKv {
			del.PrevKvs = r.Prev
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: del}}
	case *pb.RequestOp_RequestRange:
		r := a.next().Range
		r.Header = a.header()
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}
	case *pb.RequestOp_RequestTxn:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: a.txn(o.RequestTxn)}}
	}
	return &pb.ResponseOp{}
}
