package translate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/validate"
)

// ComparesValues reports whether some branch compares the values of a range of Compared. Otherwise what the headers say is enough.
func (p *Plan) ComparesValues(r Range) bool { return comparesValues(p.Req, r.String()) }

func comparesValues(req *pb.TxnRequest, name string) bool {
	for _, c := range req.Compare {
		if c.Target != pb.Compare_VALUE || len(c.RangeEnd) == 0 {
			continue
		}
		if k, e, empty := validate.Clip(c.Key, c.RangeEnd); !empty && keyrange.Of(k, e).String() == name {
			return true
		}
	}
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			if t := op.GetRequestTxn(); t != nil && comparesValues(t, name) {
				return true
			}
		}
	}
	return false
}
