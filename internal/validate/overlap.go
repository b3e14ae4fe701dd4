package validate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/pkg/v3/adt"
)

// checkOverlap refuses a transaction that puts a key twice, or puts and deletes it, in one branch with all that is
// nested there. Puts do not collide across the two branches of one nested transaction, because only one of them runs,
// nor do its puts with its deletes. Etcd misses two more cases; they pass here too and take effect in order:
//
//   - a delete from a key on (end {0}), whatever is put: etcd takes it for an empty interval;
//   - a delete in a nested transaction that stands behind the nested transaction with the put.
func checkOverlap(r *pb.TxnRequest) error {
	for _, branch := range branches(r) {
		if len(branch) == 0 || len(branch) == 1 && branch[0].GetRequestTxn() == nil {
			continue // the usual compare-and-swap collides with nothing and should cost nothing
		}
		if _, err := overlap(branch); err != nil {
			return err
		}
	}
	return nil
}

// everything is the interval that all user keys are in.
var everything = adt.NewStringAffineInterval("\x00", "")

// changes are the keys that a list of operations may put or delete.
type changes struct {
	puts map[string]struct{}
	dels adt.IntervalTree
}

// overlap collects the changes of a branch. Its own deletes come first, then its nested transactions in order, then its
// own puts; each put is compared with what was collected before it.
func overlap(ops []*pb.RequestOp) (changes, error) {
	c := changes{puts: make(map[string]struct{}), dels: adt.NewIntervalTree()}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			c.del(d)
		}
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if err := c.nest(t); err != nil {
				return changes{}, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := c.put(string(p.Key), nil); err != nil {
				return changes{}, err
			}
		}
	}
	return c, nil
}

func (c *changes) del(d *pb.DeleteRangeRequest) {
	interval := adt.NewStringAffinePoint(string(d.Key))
	if len(d.RangeEnd) != 0 {
		interval = adt.NewStringAffineInterval(string(d.Key), string(d.RangeEnd))
	}
	c.dels.Insert(interval, struct{}{})
}

// put adds the put of a key; the puts in exclusive cannot run together with it.
func (c *changes) put(key string, exclusive map[string]struct{}) error {
	if _, twice := c.puts[key]; twice {
		if _, safe := exclusive[key]; !safe {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	if c.dels.Intersects(adt.NewStringAffinePoint(key)) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	c.puts[key] = struct{}{}
	return nil
}

// nest adds both branches of a nested transaction, of which only one will run.
func (c *changes) nest(t *pb.TxnRequest) error {
	success, err := overlap(t.Success)
	if err != nil {
		return err
	}
	failure, err := overlap(t.Failure)
	if err != nil {
		return err
	}
	for key := range success.puts {
		if err := c.put(key, nil); err != nil {
			return err
		}
	}
	for key := range failure.puts {
		if err := c.put(key, success.puts); err != nil {
			return err
		}
	}
	c.dels.Union(success.dels, everything)
	c.dels.Union(failure.dels, everything)
	return nil
}
