package translate

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Note is what a member transaction says of itself: a manifest. Without entries it says no more than that the revision is
// metaetcd's, for transactions that write nothing else that everybody follows.
func Note(entries ...manifest.Entry) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(record.KeyManifest), Value: manifest.Encode(entries...)})
}

// noteNested is Note of the i-th operation of a member transaction that is decided inside of it.
func noteNested(i int, e manifest.Entry) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: record.NestedKey(i), Value: manifest.Encode(e)})
}

// raiseClock raises the member's `clock` to a stamp. closed is a revision that the sender knows to be closed.
func raiseClock(epoch, stamp, closed int64) *pb.RequestOp {
	v := record.ClockRecord{Epoch: epoch, Highest: stamp, Closed: closed}.Value()
	return request.Txn(&pb.TxnRequest{
		Compare: []*pb.Compare{request.ValueBelow([]byte(record.KeyClock), v)},
		Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(record.KeyClock), Value: v})},
	})
}

// names are what touched keys are called in a manifest.
func names(touched []touch, slotOf func(key []byte) int) []manifest.Name {
	ns := make([]manifest.Name, len(touched))
	for i, t := range touched {
		ns[i] = manifest.Name{Touch: t.touch(), Key: t.key}
	}
	return manifest.Fit(ns, slotOf)
}

func (t touch) touch() manifest.Touch {
	switch {
	case t.put:
		return manifest.Put
	case t.deleted:
		return manifest.Deleted
	}
	return manifest.Compared
}

// names are what the run touches, in the order of its steps, also ranges.
func (r *Run) names(compared []Range, slotOf func(key []byte) int) []manifest.Name {
	ns := make([]manifest.Name, 0, len(r.Steps)+len(r.Compared)+len(compared))
	for _, s := range r.Steps {
		switch {
		case s.Put != nil:
			ns = append(ns, manifest.Name{Touch: manifest.Put, Key: s.Put.Key})
		case s.Delete == nil:
		case len(s.Delete.RangeEnd) == 0:
			ns = append(ns, manifest.Name{Touch: manifest.Deleted, Key: s.Delete.Key})
		default:
			if x, empty := userRange(s.Delete); !empty {
				ns = append(ns, rangeName(manifest.Deleted, x))
			}
		}
	}
	for _, k := range r.Compared {
		ns = append(ns, manifest.Name{Touch: manifest.Compared, Key: k})
	}
	for _, x := range compared {
		ns = append(ns, rangeName(manifest.Compared, x))
	}
	return manifest.Fit(ns, slotOf)
}

func rangeName(t manifest.Touch, x Range) manifest.Name {
	return manifest.Name{Touch: t, Key: x.Key, End: x.End}
}
