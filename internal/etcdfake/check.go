package etcdfake

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// checkTxn refuses malformed requests. As in etcd, the longest list of a level counts against the levels below it.
func checkTxn(req *pb.TxnRequest, budget int) error {
	n := max(len(req.Compare), len(req.Success), len(req.Failure))
	if n > budget {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range req.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			if err := checkOp(op, budget-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, budget int) error {
	var key []byte
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestTxn:
		return checkTxn(r.RequestTxn, budget)
	case *pb.RequestOp_RequestRange:
		key = r.RequestRange.Key
	case *pb.RequestOp_RequestDeleteRange:
		key = r.RequestDeleteRange.Key
	case *pb.RequestOp_RequestPut:
		key = r.RequestPut.Key
		if r.RequestPut.IgnoreValue && len(r.RequestPut.Value) != 0 {
			return rpctypes.ErrGRPCValueProvided
		}
	default:
		return rpctypes.ErrGRPCKeyNotFound
	}
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// writes is what a list of operations may write.
type writes struct {
	puts map[string]bool
	dels []*pb.DeleteRangeRequest
}

func (w *writes) deletes(key string) bool {
	for _, d := range w.dels {
		k := []byte(key)
		switch lo := bytes.Compare(k, d.Key); {
		case len(d.RangeEnd) == 0 && lo == 0,
			len(d.RangeEnd) > 0 && lo >= 0 && (bytes.Equal(d.RangeEnd, []byte{0}) || bytes.Compare(k, d.RangeEnd) < 0):
			return true
		}
	}
	return false
}

// writesOf collects what ops may write, and refuses a key that is written twice. The two branches of one nested
// transaction may write the same key, because only one of them runs.
func writesOf(ops []*pb.RequestOp) (*writes, error) {
	w := &writes{puts: make(map[string]bool)}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.dels = append(w.dels, d)
		}
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if err := w.addNested(t); err != nil {
				return nil, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if w.puts[string(p.Key)] || w.deletes(string(p.Key)) {
				return nil, rpctypes.ErrGRPCDuplicateKey
			}
			w.puts[string(p.Key)] = true
		}
	}
	return w, nil
}

func (w *writes) addNested(t *pb.TxnRequest) error {
	then, err := writesOf(t.Success)
	if err != nil {
		return err
	}
	other, err := writesOf(t.Failure)
	if err != nil {
		return err
	}
	for key := range then.puts {
		if w.puts[key] || w.deletes(key) {
			return rpctypes.ErrGRPCDuplicateKey
		}
		w.puts[key] = true
	}
	for key := range other.puts {
		if w.puts[key] && !then.puts[key] || w.deletes(key) {
			return rpctypes.ErrGRPCDuplicateKey
		}
		w.puts[key] = true
	}
	w.dels = append(append(w.dels, then.dels...), other.dels...)
	return nil
}
